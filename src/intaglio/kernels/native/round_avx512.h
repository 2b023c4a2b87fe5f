// Rounding of rows to INT8, to nearest, for AVX-512: the same numbers as `round_avx2.h`.
//
// A few rows at a time, which share what is read of the factor. Beside them the largest elements of the next few are
// sought: codes are made while the memory is waited for.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "native/group_scale.h"
#include "native/vectors_avx512.h"

namespace intaglio {
namespace {

constexpr int FEW = 2;        // rows at a time are wide: their lines are asked for. More are short, which the processor foresees
constexpr int64_t AHEAD = 4;  // rows: how long before they are read

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

// The largest |x * factor| among what was taken. Bits order like the numbers; what is not finite lies above all, a NaN of
// either sign too.
template <typename T, bool F>
struct Largest {
    static constexpr bool WORDS = sizeof(T) == 2 && !F;
    __m512i top = _mm512_setzero_si512();

    // A block, or what is left of a row; `factor` is that of its columns.
    void take(const T* x, int64_t left, const Block& factor) {
        if constexpr (WORDS) {
            const __m512i a = word_magnitudes(x, left), b = word_magnitudes(x + 32, left - 32);
            top = _mm512_max_epu16(top, _mm512_max_epu16(a, b));
        } else {
            const Block m = F ? load_part(x, left) : magnitudes(x, left);
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; ++i)
                top = _mm512_max_epu32(top, _mm512_castps_si512(F ? absolute(mul(m.v[i], factor.v[i])) : m.v[i]));
        }
    }
    uint32_t bits() const {
        return _mm512_reduce_max_epu32(WORDS ? _mm512_max_epu32(even_columns(top), odd_columns(top)) : top);
    }
};

// The bits of the largest of each of R rows.
template <int R, typename T, bool F>
inline void largest(const T* x, int64_t stride, const float* factor, int64_t columns, uint32_t* tops) {
    Largest<T, F> top[R];
    for (int64_t c = 0; c < columns; c += BLOCK) {
        const Block f = F ? load_block(factor + c) : Block{};
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) top[r].take(x + r * stride + c, columns - c, f);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) tops[r] = top[r].bits();
}

// 64 codes. No product exceeds 127.5, so none needs a clamp; NaN becomes 0x80000000, whose code is 0.
template <typename T, bool F>
inline __m512i rounded(const Block& x, const Block& factor, Vec inverse) {
    const T* kind = nullptr;
    __m512i v[VECTORS];
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS; ++i) v[i] = _mm512_cvtps_epi32(mul(F ? mul(x.v[i], factor.v[i]) : x.v[i], inverse));
    return low_bytes(kind, v);
}

// R rows to dense rows of codes. A row whose inverse is 0 becomes zeros.
// With `next`, the bits of the largest of each of R rows there too, for a later call.
template <int R, typename T, bool F>
inline void round_rows(const T* x, const T* next, int64_t stride, const float* factor, const float* inverse,
    int64_t columns, int8_t* to, uint32_t* tops) {
    Largest<T, F> top[R];
    for (int64_t c = 0; c < columns; c += BLOCK) {
        const int64_t left = columns - c;
        const Block f = F ? load_block(factor + c) : Block{};
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const int64_t at = r * columns + c;
            if (next) {
                const T* from = next + r * stride + c;
                for (int line = 0; R <= FEW && line < BLOCK; line += 64 / sizeof(T))
                    __builtin_prefetch(from + AHEAD * stride + line, 0, 2);
                if (R <= FEW) __builtin_prefetch(to + R * columns + at, 1);
                top[r].take(from, left, f);
            }
            const Block block = load_part(x + r * stride + c, left);
            const __m512i codes = rounded<T, F>(block, f, constant(inverse[r]));
            left >= BLOCK ? _mm512_storeu_si512(to + at, codes) : _mm512_mask_storeu_epi8(to + at, first(left), codes);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; next && r < R; ++r) tops[r] = top[r].bits();
}

// A row by itself; returns its scale.
template <typename T>
float quantize_row(const T* x, int64_t columns, int8_t* to) {
    uint32_t top;
    float scale;
    largest<1, T, false>(x, columns, nullptr, columns, &top);
    const float inverse = inverse_of(top, &scale);
    round_rows<1, T, false>(x, nullptr, columns, nullptr, &inverse, columns, to, nullptr);
    return scale;
}

}  // namespace
}  // namespace intaglio
