// The innermost loop of the product by `vpdpbusd` on 256-bit registers: unsigned rows times signed panels, four products
// added in 32 bits at once. Compiled twice, for the two ways in which processors have the instruction.
#pragma once
#include "weight_product/native/blocks_ymm.h"

namespace intaglio {
namespace {

inline __m256i dpbusd(__m256i sum, __m256i a, __m256i b) {
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(sum, a, b);
#else
    return _mm256_dpbusd_epi32(sum, a, b);
#endif
}

// c (R, 16) += a (R, 4 quads) b
template <int R>
__attribute__((noinline)) void tile_vnni(const uint8_t* a, const int8_t* b, int64_t quads, int32_t* c) {
    __m256i acc[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    for (int64_t q = 0; q < quads; ++q, a += 4, b += 64) {
        const __m256i b0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(b));
        const __m256i b1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(b + 32));
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            const __m256i v = broadcast4(a + r * STRIDE);
            acc[r][0] = dpbusd(acc[r][0], v, b0);
            acc[r][1] = dpbusd(acc[r][1], v, b1);
            in_order(acc[r][0], acc[r][1]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
        for (int half = 0; half < 2; ++half) add_to(c + r * COLUMNS + 8 * half, acc[r][half]);
}

// As `Tiles` of AVX2. No sum of four products is cut to 16 bits, so every code goes the same way.
struct VnniTiles {
    explicit VnniTiles(int) {}

    bool with_offset() const { return true; }

    template <int R>
    void tile(const void* left, int64_t row, const int8_t* panel, int64_t quads, int32_t* c) const {
        tile_vnni<R>(static_cast<const uint8_t*>(left) + row * STRIDE, panel, quads, c);
    }
};

}  // namespace
}  // namespace intaglio
