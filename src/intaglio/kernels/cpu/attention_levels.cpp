// Compiled for any x86-64: hands attention to the code for this level.

#include "attention_levels.h"

#include "level.h"

extern "C" void intaglio_attention(const Attention* attention) {
    using namespace intaglio;
    (level() == AVX512_BF16 ? attention::avx512bf16::attend : attention::avx2::attend)(*attention);
}

extern "C" void intaglio_attention_gradient(const AttentionGradient* gradient) {
    using namespace intaglio;
    (level() == AVX512_BF16 ? attention::avx512bf16::gradient : attention::avx2::gradient)(*gradient);
}
