// Rows of bfloat16 tokens -> the pairs that `attention_tiles.h` multiplies.
#pragma once
#include "attention/native/attention_tiles.h"
#include "native/transpose_avx512.h"

namespace intaglio::attention {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How an axis of `size` rows is cut into `count` tiles of nearly the same height: those after the first `full` are lower by one.
struct Cut {
    int64_t count, height, full;
    explicit Cut(int64_t size) : count(ceil_div(size, ROWS)), height(ceil_div(size, count)), full(size - count * (height - 1)) {}
    int64_t start(int64_t i) const { return i * height - std::max<int64_t>(0, i - full); }
    int64_t rows(int64_t i) const { return i < full ? height : height - 1; }
};

inline __mmask32 first32(int64_t n) { return n >= 32 ? ~0u : (1u << std::max<int64_t>(n, 0)) - 1; }
inline __mmask16 first16(int64_t n) { return static_cast<__mmask16>(first32(std::min<int64_t>(n, 16))); }

// Pairs along the columns: to[p * step + row] = (x[row][2 p], x[row][2 p + 1]) for `lanes` rows, at most 16, of which those
// from `rows` on are zero. An odd last column is paired with zero.
[[gnu::noinline]] inline void pack_columns(const uint16_t* x, int64_t stride, int64_t rows, int64_t columns, Pair* to, int64_t step,
                                           int64_t lanes) {
    const __mmask16 stored = first16(lanes);
    for (int64_t c = 0; c < columns; c += WIDE) {
        __m512i r[LANES];
        const __mmask32 there = first32(columns - c);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) r[i] = _mm512_maskz_loadu_epi16(i < rows ? there : 0, x + i * stride + c);
        transpose(r);
        const int64_t end = std::min<int64_t>(LANES, (columns - c + 1) / 2);
        Pair* line = to + c / 2 * step;
        if (end == LANES) {
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) _mm512_mask_storeu_epi32(line + i * step, stored, r[i]);
        } else {
            for (int64_t i = 0; i < end; ++i) _mm512_mask_storeu_epi32(line + i * step, stored, r[i]);
        }
    }
}

// Pairs along the rows: to[p * step + c] = (x[2 p][c], x[2 p + 1][c]) for `lanes` columns, at most 16, of which those from
// `columns` on are zero. An odd last row is paired with zero.
[[gnu::noinline]] inline void pack_rows(const uint16_t* x, int64_t stride, int64_t rows, int64_t columns, Pair* to, int64_t step,
                                        int64_t lanes) {
    const __mmask16 there = first16(columns), stored = first16(lanes);
    for (int64_t row = 0; row < rows; row += 2, to += step) {
        const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, x + row * stride));
        const __m256i next = _mm256_maskz_loadu_epi16(row + 1 < rows ? there : 0, x + (row + 1) * stride);
        const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(next), 16);
        _mm512_mask_storeu_epi32(to, stored, _mm512_or_epi32(low, high));
    }
}

// The way back: float32 c[column][lane] times scale[lane] -> bfloat16 to[lane][column], for the first `lanes`, at most 16.
[[gnu::noinline]] inline void store_transposed(const float* c, int64_t c_row, int64_t columns, __m512 scale, uint16_t* to,
                                               int64_t stride, int64_t lanes) {
    __m512i r[LANES];
    int64_t start = 0;
    for (; start + WIDE <= columns; start += WIDE, c += WIDE * c_row) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i)
            r[i] = pairs(_mm512_mul_ps(_mm512_loadu_ps(c + 2 * i * c_row), scale),
                         _mm512_mul_ps(_mm512_loadu_ps(c + (2 * i + 1) * c_row), scale));
        transpose(r);
        for (int64_t i = 0; i < lanes; ++i) _mm512_storeu_si512(to + i * stride + start, r[i]);
    }
    const int64_t left = columns - start;
    if (left == 0) return;
    for (int i = 0; i < LANES; ++i) {
        const __m512 even = 2 * i < left ? _mm512_loadu_ps(c + 2 * i * c_row) : _mm512_setzero_ps();
        const __m512 odd = 2 * i + 1 < left ? _mm512_loadu_ps(c + (2 * i + 1) * c_row) : _mm512_setzero_ps();
        r[i] = pairs(_mm512_mul_ps(even, scale), _mm512_mul_ps(odd, scale));
    }
    transpose(r);
    for (int64_t i = 0; i < lanes; ++i) {
        if (left % 2 == 0)  // a mask of 16-bit numbers is slow to store by
            _mm512_mask_storeu_epi32(to + i * stride + start, first16(left / 2), r[i]);
        else
            _mm512_mask_storeu_epi16(to + i * stride + start, first32(left), r[i]);
    }
}

}  // namespace intaglio::attention
