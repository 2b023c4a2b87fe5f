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
    switch (rows) {
        case 1: return tile<1>(a, b, quads, c, add, ahead);
        case 2: return tile<2>(a, b, quads, c, add, ahead);
        case 3: return tile<3>(a, b, quads, c, add, ahead);
        case 4: return tile<4>(a, b, quads, c, add, ahead);
        case 5: return tile<5>(a, b, quads, c, add, ahead);
        case 6: return tile<6>(a, b, quads, c, add, ahead);
        case 7: return tile<7>(a, b, quads, c, add, ahead);
        case 8: return tile<8>(a, b, quads, c, add, ahead);
        case 9: return tile<9>(a, b, quads, c, add, ahead);
        case 10: return tile<10>(a, b, quads, c, add, ahead);
        case 11: return tile<11>(a, b, quads, c, add, ahead);
        case 12: return tile<12>(a, b, quads, c, add, ahead);
        case 13: return tile<13>(a, b, quads, c, add, ahead);
        default: return tile<14>(a, b, quads, c, add, ahead);
    }
}

}  // namespace
}  // namespace avx512
}  // namespace intaglio
