// The innermost loop, for AVX-512 VNNI: up to 14 rows of the left operand against one panel of 32 columns.
//
// A panel holds, for every four steps of the reduction (a quad), 32 columns of 4 codes: 128 bytes, offset by 128 to
// unsigned. `vpdpbusd` multiplies unsigned by signed, so the left operand stays signed, and 128 times the sum of each of
// its rows is taken off at the end.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace intaglio {
namespace avx512 {
namespace {

constexpr int TILE_ROWS = 14;  // with two vectors of columns, 28 accumulators of the 32 registers
constexpr int PANEL = 32;
constexpr int64_t STEPS = 2048;            // of the reduction that a block of rows holds
constexpr int64_t STRIDE = STEPS + 64;     // from row to row: known here, so that one register addresses all rows;
                                           // an odd number of cache lines, so that rows do not share a set

// c (R, 32) = or += a (R, 4 quads) b; asks for 64 bytes from `ahead` on a quad. Its own function: beside an epilogue GCC
// would spill the accumulators.
template <int R>
__attribute__((noinline)) void tile(
    const int8_t* a, const uint8_t* b, int64_t quads, int32_t* c, bool add, const uint8_t* ahead) {
    __m512i acc[R][2];
    if (add) {
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r)
            for (int h = 0; h < 2; ++h) acc[r][h] = _mm512_load_si512(c + r * PANEL + 16 * h);
    } else {
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm512_setzero_si512();
    }
    for (int64_t q = 0; q < quads; ++q, a += 4, b += 128, ahead += 64) {
        __builtin_prefetch(ahead, 0, 2);
        const __m512i b0 = _mm512_load_si512(b), b1 = _mm512_load_si512(b + 64);
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r) {
            int32_t four;
            std::memcpy(&four, a + r * STRIDE, 4);
            const __m512i v = _mm512_set1_epi32(four);
            acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], b0, v);
            acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], b1, v);
        }
    }
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r)
        for (int h = 0; h < 2; ++h) _mm512_store_si512(c + r * PANEL + 16 * h, acc[r][h]);
}

inline void tile(
    int rows, const int8_t* a, const uint8_t* b, int64_t quads, int32_t* c, bool add, const uint8_t* ahead) {
    static constexpr decltype(&tile<1>) OF_ROWS[TILE_ROWS] = {
        tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>, tile<7>, tile<8>, tile<9>, tile<10>, tile<11>, tile<12>, tile<13>, tile<14>};
    OF_ROWS[rows - 1](a, b, quads, c, add, ahead);
}

}  // namespace
}  // namespace avx512
}  // namespace intaglio
