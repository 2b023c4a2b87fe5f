// Compiled for any processor: which code serves attention.

#include "native/dispatch.h"
#include "attention/native/attention_sets.h"

namespace intaglio {
namespace {

const Entry<Attention> ATTENTION[] = {
    {"avx512bf16", AVX512_BF16, attention::avx512bf16::attend},
    {"avx2", AVX2, attention::avx2::attend},
};
const Listed listed_attention("intaglio_attention", ATTENTION);

const Entry<AttentionGradient> ATTENTION_GRADIENT[] = {
    {"avx512bf16", AVX512_BF16, attention::avx512bf16::gradient},
    {"avx2", AVX2, attention::avx2::gradient},
};
const Listed listed_attention_gradient("intaglio_attention_gradient", ATTENTION_GRADIENT);

const Entry<Attention> ATTENTION_INT8[] = {
    {"avx512bf16", AVX512_BF16, attention::avx512bf16::attend_int8},
};
const Listed listed_attention_int8("intaglio_attention_int8", ATTENTION_INT8);

}  // namespace
}  // namespace intaglio

extern "C" int intaglio_attention(const Attention* call) { return intaglio::dispatch(intaglio::ATTENTION, *call); }
extern "C" int intaglio_attention_gradient(const AttentionGradient* call) { return intaglio::dispatch(intaglio::ATTENTION_GRADIENT, *call); }
extern "C" int intaglio_attention_int8(const Attention* call) { return intaglio::dispatch(intaglio::ATTENTION_INT8, *call); }
