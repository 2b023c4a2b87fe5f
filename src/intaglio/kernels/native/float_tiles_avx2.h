// Products of small float32 matrices, for AVX2 with FMA.
//
//     c[row][column] (+)= sum over steps s of a[row][s] * b[s][column]
//
// `a` is read one number at a time, so it may lie in any order; `b` 8 columns at a time.
#pragma once
#include "native/float_vectors_avx2.h"

namespace intaglio {
namespace {

constexpr int64_t TILE_ROWS = 6;  // with two vectors of columns: 12 accumulators of 16 registers
constexpr int64_t PANEL = 16;

// Floats from row to row of a matrix that is read along both axes: an odd number of cache lines, so that a column's
// elements do not share sets.
inline int64_t odd_lines(int64_t columns) { return (round_up(columns, 16) / 16 | 1) * 16; }

struct Left {
    const float* data;
    int64_t row, step;  // floats from one to the next
};
struct Right {
    const float* data;
    int64_t step, panel;  // from step to step, and from 16 columns to the next
};

template <int R, int V>
[[gnu::noinline]] void tile(const Left& left, const float* a, const float* b, int64_t b_step, int64_t steps, float* c,
                            int64_t c_row, bool add) {
    const int64_t a_row = left.row, a_step = left.step;
    __m256 sum[R][V];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[r][v] = add ? load8(c + r * c_row + v * EIGHT) : _mm256_setzero_ps();
    for (int64_t s = 0; s < steps; ++s, a += a_step, b += b_step) {
        __m256 columns[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) columns[v] = load8(b + v * EIGHT);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            const __m256 one = _mm256_broadcast_ss(a + r * a_row);
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) {
                sum[r][v] = _mm256_fmadd_ps(one, columns[v], sum[r][v]);
                __asm__ volatile("" : "+x"(sum[r][v]));  // one row after the other: there are no more registers
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) store8(c + r * c_row + v * EIGHT, sum[r][v]);
}

template <int V>
inline void tile_of(int64_t rows, const Left& left, const float* a, const float* b, int64_t b_step, int64_t steps, float* c,
                    int64_t c_row, bool add) {
    switch (rows) {
        case 1: return tile<1, V>(left, a, b, b_step, steps, c, c_row, add);
        case 2: return tile<2, V>(left, a, b, b_step, steps, c, c_row, add);
        case 3: return tile<3, V>(left, a, b, b_step, steps, c, c_row, add);
        case 4: return tile<4, V>(left, a, b, b_step, steps, c, c_row, add);
        case 5: return tile<5, V>(left, a, b, b_step, steps, c, c_row, add);
        default: return tile<6, V>(left, a, b, b_step, steps, c, c_row, add);
    }
}

// Columns are computed up to a multiple of 8: `b` has them, and `c` has room.
inline void multiply(const Left& a, const Right& b, int64_t rows, int64_t columns, int64_t steps, float* c, int64_t c_row,
                     bool add) {
    const int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t column = 0; column < columns; column += PANEL) {
        const float* panel = b.data + column / PANEL * b.panel;
        const auto of_width = columns - column > EIGHT ? tile_of<2> : tile_of<1>;
        for (int64_t t = 0; t < tiles; ++t) {  // all of nearly the same height
            const int64_t row = t * rows / tiles, here = (t + 1) * rows / tiles - row;
            of_width(here, a, a.data + row * a.row, panel, b.step, steps, c + row * c_row + column, c_row, add);
        }
    }
}

inline void transpose(__m256 r[8]) {
    __m256 t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    for (int i = 0; i < 8; ++i) r[i] = t[i];
}

// x (rows, columns) -> panels of 16 of its rows, each [column][row]; zeros up to a whole panel. `to` has room for whole
// panels of columns up to a multiple of 8: `panel_size` each.
inline int64_t panel_size(int64_t columns) { return round_up(columns, EIGHT) * PANEL; }

template <typename T>
void pack_transposed(const T* x, int64_t stride, int64_t rows, int64_t columns, float* to) {
    for (int64_t row = 0; row < rows; row += PANEL, to += panel_size(columns))
        for (int half = 0; half < 2; ++half)
            for (int64_t c = 0; c < columns; c += EIGHT) {
                __m256 r[8];
                for (int64_t i = 0; i < EIGHT; ++i) {
                    const int64_t from = row + half * EIGHT + i;
                    r[i] = from < rows ? load8(x + from * stride + c, columns - c) : _mm256_setzero_ps();
                }
                transpose(r);
                for (int64_t i = 0; i < EIGHT; ++i) store8(to + (c + i) * PANEL + half * EIGHT, r[i]);
            }
}

}  // namespace
}  // namespace intaglio
