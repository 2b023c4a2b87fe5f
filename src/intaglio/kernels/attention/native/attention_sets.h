// What `attention.cpp` chooses among.
#pragma once
#include "attention/native/attention.h"

namespace intaglio::attention {

namespace avx2 {
void attend(const Attention& attention);
void gradient(const AttentionGradient& gradient);
}  // namespace avx2

namespace avx512bf16 {
void attend(const Attention& attention);
void attend_int8(const Attention& attention);
void gradient(const AttentionGradient& gradient);
}  // namespace avx512bf16

}  // namespace intaglio::attention
