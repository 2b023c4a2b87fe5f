// The one product of attention: rows of broadcast pairs times vectors of pairs, added up by vdpbf16ps.
//
//     c[row][lane] = sum over steps s, and over both halves of a pair, of a[s][row] * b[s][lane]
//
// A pair is two bfloat16 that are neighbours on the axis that is summed over, in 32 bits.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

namespace intaglio::attention {

using Pair = uint32_t;

constexpr int LANES = 16;
constexpr int ROWS = 14;  // with two vectors of lanes: 28 accumulators, and 4 registers for the operands
constexpr int WIDE = 2 * LANES;

enum class Then { STORE, ADD, RESCALE };  // c = sum; c = c + sum; c = c * factor[lane] + sum

template <int R, int V, int A_ROW, Then THEN>
[[gnu::noinline]] void tile(const Pair* a, int64_t a_step, const Pair* b, int64_t steps, float* c, int64_t c_row,
                            const float* factor) {
    __m512 sum[R][V];
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[r][v] = _mm512_setzero_ps();
#pragma GCC unroll 1
    for (int64_t s = 0; s < steps; ++s, a += a_step, b += V * LANES) {
        __m512i lanes[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) lanes[v] = _mm512_loadu_si512(b + v * LANES);
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r) {
            const __m512i row = _mm512_set1_epi32(static_cast<int>(a[r * A_ROW]));
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], (__m512bh)row, (__m512bh)lanes[v]);
        }
    }
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
        const __m512 scale = THEN == Then::RESCALE ? _mm512_loadu_ps(factor + v * LANES) : _mm512_setzero_ps();
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r) {
            float* to = c + r * c_row + v * LANES;
            __m512 value = sum[r][v];
            if (THEN == Then::ADD) value = _mm512_add_ps(_mm512_loadu_ps(to), value);
            if (THEN == Then::RESCALE) value = _mm512_fmadd_ps(_mm512_loadu_ps(to), scale, value);
            _mm512_storeu_ps(to, value);
        }
    }
}

using Tile = void (*)(const Pair*, int64_t, const Pair*, int64_t, float*, int64_t, const float*);

template <int V, int A_ROW, Then THEN, int... R>
constexpr std::array<Tile, ROWS> tiles_of(std::integer_sequence<int, R...>) {
    return {tile<R + 1, V, A_ROW, THEN>...};
}

// The tile of `rows` (1 to ROWS) by `vectors` (1 or 2).
template <int A_ROW, Then THEN>
Tile tile_of(int64_t rows, int64_t vectors) {
    using Rows = std::make_integer_sequence<int, ROWS>;
    static constexpr std::array<Tile, ROWS> narrow = tiles_of<1, A_ROW, THEN>(Rows()), wide = tiles_of<2, A_ROW, THEN>(Rows());
    return (vectors == 2 ? wide : narrow)[rows - 1];
}

// 2**x, to a relative 2.6e-6 before rounding. 0 for -inf.
inline __m512 exp2(__m512 x) {
    const __m512 f = _mm512_reduce_ps(x, 0x09);  // x - floor(x)
    __m512 p = _mm512_set1_ps(0.013534167916f);  // minimax on [0, 1]
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.052011460611f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.241442756891f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693003834470f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.000002593371f));
    return _mm512_scalef_ps(p, x);  // p * 2**floor(x)
}

// Two rows of float32 -> one vector of pairs (first, second).
inline __m512i pairs(__m512 first, __m512 second) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                           19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(second, first));
}

}  // namespace intaglio::attention
