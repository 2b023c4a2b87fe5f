// What `attention_levels.cpp` chooses among, by level.
#pragma once
#include "attention.h"

namespace intaglio::attention {

namespace avx2 {
void attend(const Attention& attention);
void gradient(const AttentionGradient& gradient);
}  // namespace avx2

namespace avx512bf16 {
void attend(const Attention& attention);
void gradient(const AttentionGradient& gradient);
}  // namespace avx512bf16

}  // namespace intaglio::attention
