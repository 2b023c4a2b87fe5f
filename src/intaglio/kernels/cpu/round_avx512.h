// Rounding of rows to INT8, for AVX-512: the same numbers as `rows.cpp`.
//
// A few rows at a time: they share what is read of the factor, and none waits alone for its largest element.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "rows.h"
#include "vectors_avx512.h"

namespace intaglio {
namespace {

// |x|, as much as is left of a row: 32 words, or a block of floats
inline __m512i word_magnitudes(const bf16* x, int64_t left) {
    const __m512i words =
        left >= 32 ? _mm512_loadu_si512(x) : _mm512_maskz_loadu_epi16(static_cast<__mmask32>(left > 0 ? first(left) : 0), x);
    return _mm512_and_si512(words, _mm512_set1_epi16(0x7fff));
}
inline Block magnitudes(const bf16* x, int64_t left) {
    return block_of(word_magnitudes(x, left), word_magnitudes(x + 32, left - 32));
}
inline Block magnitudes(const float* x, int64_t left) {
    Block block = load_part(x, left);
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS; ++i) block.v[i] = absolute(block.v[i]);
    return block;
}

// The bits of the largest |x * factor| of each of R rows. Bits order like the numbers; what is not finite lies above all,
// a NaN of either sign too. Asks for the lines that their codes will be written to, unless null.
template <int R, typename T, bool F>
inline void largest(const T* x, int64_t stride, const float* factor, int64_t columns, const int8_t* to, uint32_t* tops) {
    constexpr bool WORDS = sizeof(T) == 2 && !F;
    __m512i top[R] = {};
    for (int64_t c = 0; c < columns; c += BLOCK) {
        const int64_t left = columns - c;
        const Block f = F ? magnitudes(factor + c, BLOCK) : Block{};
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            if (to) __builtin_prefetch(to + r * columns + c, 1);
            const T* from = x + r * stride + c;
            if constexpr (WORDS) {
                const __m512i a = word_magnitudes(from, left), b = word_magnitudes(from + 32, left - 32);
                top[r] = _mm512_max_epu16(top[r], _mm512_max_epu16(a, b));
            } else {
                const Block m = magnitudes(from, left);
#pragma GCC unroll 4
                for (int i = 0; i < VECTORS; ++i)
                    top[r] = _mm512_max_epu32(top[r], _mm512_castps_si512(F ? mul(m.v[i], f.v[i]) : m.v[i]));
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
        tops[r] = _mm512_reduce_max_epu32(WORDS ? _mm512_max_epu32(even_columns(top[r]), odd_columns(top[r])) : top[r]);
}

// 24 random bits: the finalizer of MurmurHash3 over index and seed, as integers.
inline __m512i random_bits(__m512i h) {
    h = _mm512_mullo_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 16)), _mm512_set1_epi32(static_cast<int>(0x85ebca6bu)));
    h = _mm512_mullo_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 13)), _mm512_set1_epi32(static_cast<int>(0xc2b2ae35u)));
    return _mm512_srli_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 16)), 8);
}

// 64 codes. To nearest no product exceeds 127.5, so none needs a clamp; NaN becomes 0x80000000, whose code is 0.
template <typename T, bool F, bool S>
inline __m512i rounded(const Block& x, const Block& factor, Vec inverse, __m512i seed, uint32_t index) {
    const T* kind = nullptr;
    __m512i v[VECTORS];
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS; ++i) {
        Vec value = mul(F ? mul(x.v[i], factor.v[i]) : x.v[i], inverse);
        if (S) {
            const __m512i at = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(index)), columns_of(kind, i));
            const Vec bits = _mm512_cvtepi32_ps(random_bits(_mm512_xor_si512(at, seed)));
            value = fmadd(bits, constant(0x1p-24f), value);  // the product is exact: rounded once
            v[i] = _mm512_cvt_roundps_epi32(value, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
            v[i] = _mm512_min_epi32(v[i], _mm512_set1_epi32(127));
        } else {
            v[i] = _mm512_cvtps_epi32(value);
        }
    }
    const __m512i codes = low_bytes(kind, v);
    return S ? _mm512_max_epi8(codes, _mm512_set1_epi8(-127)) : codes;
}

// R rows to dense rows of codes, `index` the first element's number. A row whose inverse is 0 becomes zeros. Asks for what
// lies `ahead` elements further on, if not 0.
template <int R, typename T, bool F, bool S>
inline void round_rows(const T* x, int64_t stride, const float* factor, const float* inverse, uint32_t seed, uint32_t index,
    int64_t columns, int8_t* to, int64_t ahead) {
    const __m512i seeds = _mm512_set1_epi32(static_cast<int>(seed));
    for (int64_t c = 0; c < columns; c += BLOCK) {
        const int64_t left = columns - c;
        const Block f = F ? load_block(factor + c) : Block{};
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const T* from = x + r * stride + c;
            const int64_t at = r * columns + c;
            for (int line = 0; ahead && line < BLOCK; line += 64 / sizeof(T)) __builtin_prefetch(from + ahead + line, 0, 2);
            const __m512i codes =
                rounded<T, F, S>(load_part(from, left), f, constant(inverse[r]), seeds, index + static_cast<uint32_t>(at));
            left >= BLOCK ? _mm512_storeu_si512(to + at, codes) : _mm512_mask_storeu_epi8(to + at, first(left), codes);
        }
    }
}

// A row by itself, to nearest; returns its scale.
template <typename T>
float quantize_row(const T* x, int64_t columns, int8_t* to) {
    uint32_t top;
    float scale;
    largest<1, T, false>(x, columns, nullptr, columns, nullptr, &top);
    const float inverse = inverse_of(top, &scale);
    round_rows<1, T, false, false>(x, columns, nullptr, &inverse, 0, 0, columns, to, 0);
    return scale;
}

}  // namespace
}  // namespace intaglio
