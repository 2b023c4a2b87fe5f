// Rounding of one row to INT8, for AVX-512: the same numbers as `rows.cpp`.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "rows.h"
#include "vectors_avx512.h"

namespace intaglio {
namespace {

inline __m512i without_sign(__m512i words) { return _mm512_and_si512(words, _mm512_set1_epi16(0x7fff)); }

// |x|
inline Block magnitudes(const bf16* x) {
    return block_of(without_sign(_mm512_loadu_si512(x)), without_sign(_mm512_loadu_si512(x + 32)));
}
inline Block magnitudes(Block x) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) x.v[i] = absolute(x.v[i]);
    return x;
}
inline Block magnitudes(const float* x) { return magnitudes(load_block(x)); }

template <bool F>
inline __m512i larger(__m512i top, const Block& magnitudes, const float* factor) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m512 v = F ? _mm512_mul_ps(magnitudes.v[i], _mm512_loadu_ps(factor + 16 * i)) : magnitudes.v[i];
        top = _mm512_max_epu32(top, _mm512_castps_si512(v));
    }
    return top;
}

// The bits of the largest |x * factor|, which order like the numbers; what is not finite lies above all, a NaN of either
// sign too. `factor` holds magnitudes.
template <typename T, bool F>
uint32_t largest(const T* x, const float* factor, int64_t columns) {
    __m512i top = _mm512_setzero_si512();
    int64_t c = 0;
    for (; c + BLOCK <= columns; c += BLOCK) top = larger<F>(top, magnitudes(x + c), factor + c);
    if (c < columns) top = larger<F>(top, magnitudes(load_block(x + c, columns - c)), factor + c);
    return _mm512_reduce_max_epu32(top);
}

template <>
inline uint32_t largest<bf16, false>(const bf16* x, const float*, int64_t columns) {
    __m512i top = _mm512_setzero_si512();
    int64_t c = 0;
    for (; c + 32 <= columns; c += 32) top = _mm512_max_epu16(top, without_sign(_mm512_loadu_si512(x + c)));
    const __m512i rest = _mm512_maskz_loadu_epi16(static_cast<__mmask32>(first(columns - c)), x + c);
    top = _mm512_max_epu16(top, without_sign(rest));
    return _mm512_reduce_max_epu32(_mm512_max_epu32(even_columns(top), odd_columns(top)));
}

// 24 random bits: the finalizer of MurmurHash3 over index and seed, as integers.
inline __m512i random_bits(__m512i h) {
    h = _mm512_mullo_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 16)), _mm512_set1_epi32(static_cast<int>(0x85ebca6bu)));
    h = _mm512_mullo_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 13)), _mm512_set1_epi32(static_cast<int>(0xc2b2ae35u)));
    return _mm512_srli_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 16)), 8);
}

// 64 codes. To nearest no product exceeds 127.5, so none needs a clamp.
template <typename T, bool F, bool S>
inline __m512i rounded(const Block& x, const float* factor, __m512 inverse, __m512i seed, uint32_t index) {
    __m512i v[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        __m512 value = F ? _mm512_mul_ps(x.v[i], _mm512_loadu_ps(factor + 16 * i)) : x.v[i];
        value = _mm512_mul_ps(value, inverse);
        if (S) {
            const T* kind = nullptr;
            const __m512i at = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(index)), columns_of(kind, i));
            const __m512 bits = _mm512_cvtepi32_ps(random_bits(_mm512_xor_si512(at, seed)));
            value = _mm512_fmadd_ps(bits, _mm512_set1_ps(0x1p-24f), value);  // the product is exact: rounded once
            v[i] = _mm512_cvt_roundps_epi32(value, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
            v[i] = _mm512_min_epi32(v[i], _mm512_set1_epi32(127));
        } else {
            v[i] = _mm512_cvtps_epi32(value);
        }
    }
    const T* kind = nullptr;
    const __m512i codes = codes_of(kind, v);
    return S ? _mm512_max_epi8(codes, _mm512_set1_epi8(-127)) : codes;
}

template <typename T, bool F, bool S>
void round_row(const T* x, const float* factor, float inverse, uint32_t seed, uint32_t index, int64_t columns, int8_t* to) {
    const __m512 scale = _mm512_set1_ps(inverse);
    const __m512i seeds = _mm512_set1_epi32(static_cast<int>(seed));
    int64_t c = 0;
    for (; c + BLOCK <= columns; c += BLOCK)
        _mm512_storeu_si512(to + c, rounded<T, F, S>(load_block(x + c), F ? factor + c : nullptr, scale, seeds, index + static_cast<uint32_t>(c)));
    if (c == columns) return;
    const Block rest = load_block(x + c, columns - c);
    const __m512i codes = rounded<T, F, S>(rest, F ? factor + c : nullptr, scale, seeds, index + static_cast<uint32_t>(c));
    _mm512_mask_storeu_epi8(to + c, first(columns - c), codes);
}

// A row by itself, to nearest; returns its scale.
template <typename T>
float quantize_row(const T* x, int64_t columns, int8_t* to) {
    float scale;
    const float inverse = inverse_of(largest<T, false>(x, nullptr, columns), &scale);
    if (inverse == 0.0f)
        std::memset(to, 0, columns);
    else
        round_row<T, false, false>(x, nullptr, inverse, 0, 0, columns, to);
    return scale;
}

}  // namespace
}  // namespace intaglio
