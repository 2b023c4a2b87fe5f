// The innermost loops of the product on AVX2, which has no sum of four products of bytes in 32 bits: up to 6 rows of the
// left operand against one panel of 16 columns.
#pragma once
#include <immintrin.h>

#include <algorithm>

#include "weight_product/native/blocks_ymm.h"

namespace intaglio {
namespace {

inline __m256i broadcast8(const int16_t* p) {
    int64_t v;
    std::memcpy(&v, p, 8);
    return _mm256_set1_epi64x(v);
}

// Small codes: 16-bit sums of `run` products of pairs, |sum| <= run * 2 * 255 * max|b| <= 32767, then widened.
template <int R>
__attribute__((noinline)) void tile_narrow(const uint8_t* a, const int8_t* b, int64_t quads, int64_t run, int32_t* c) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t start = 0; start < quads; start += run) {
        const int64_t stop = start + run < quads ? start + run : quads;
        __m256i acc[R][2];
        const uint8_t* aq = a + 4 * start;
        const int8_t* bq = b + 64 * start;
        {
            const __m256i b0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(bq));
            const __m256i b1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(bq + 32));
#pragma GCC unroll 6
            for (int r = 0; r < R; ++r) {
                const __m256i v = broadcast4(aq + r * STRIDE);
                acc[r][0] = _mm256_maddubs_epi16(v, b0);
                acc[r][1] = _mm256_maddubs_epi16(v, b1);
                in_order(acc[r][0], acc[r][1]);
            }
        }
        for (int64_t q = start + 1; q < stop; ++q) {
            aq += 4;
            bq += 64;
            const __m256i b0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(bq));
            const __m256i b1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(bq + 32));
#pragma GCC unroll 6
            for (int r = 0; r < R; ++r) {
                const __m256i v = broadcast4(aq + r * STRIDE);
                acc[r][0] = _mm256_add_epi16(acc[r][0], _mm256_maddubs_epi16(v, b0));
                acc[r][1] = _mm256_add_epi16(acc[r][1], _mm256_maddubs_epi16(v, b1));
                in_order(acc[r][0], acc[r][1]);
            }
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            add_to(c + r * COLUMNS, _mm256_madd_epi16(acc[r][0], ones));
            add_to(c + r * COLUMNS + 8, _mm256_madd_epi16(acc[r][1], ones));
        }
    }
}

// Any codes: products of 16-bit operands, whose pairs always fit 32 bits. Half a panel: 8 columns.
template <int R>
__attribute__((noinline)) void tile_wide(const int16_t* a, const int8_t* b, int64_t quads, int32_t* c) {
    __m256i acc[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    for (int64_t q = 0; q < quads; ++q, a += 4, b += 64) {
        const __m256i b0 = _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(b)));
        const __m256i b1 = _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(b + 16)));
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            const __m256i v = broadcast8(a + r * STRIDE);
            acc[r][0] = _mm256_add_epi32(acc[r][0], _mm256_madd_epi16(v, b0));
            acc[r][1] = _mm256_add_epi32(acc[r][1], _mm256_madd_epi16(v, b1));
            in_order(acc[r][0], acc[r][1]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {  // neighbours hold the two halves of a column's sum
        const __m256i sums = _mm256_hadd_epi32(acc[r][0], acc[r][1]);
        add_to(c + r * COLUMNS, _mm256_permute4x64_epi64(sums, 0xD8));
    }
}

// How a block of panels is multiplied, whose largest |code| is `largest`.
struct Avx2Tiles {
    static constexpr int NARROW_MAX = 32;  // above, 16-bit sums have to be widened after every product

    bool narrow;
    int64_t run;

    explicit Avx2Tiles(int largest)
        : narrow(largest <= NARROW_MAX), run(largest ? std::min(32767 / (2 * 255 * largest), 16) : 16) {}

    // Whether the left operand is unsigned bytes, its codes + 128; else 16-bit integers.
    bool with_offset() const { return narrow; }

    // c (R, 16) += rows [row, row + R) of the left operand times a panel.
    template <int R>
    void tile(const void* left, int64_t row, const int8_t* panel, int64_t quads, int32_t* c) const {
        if (narrow) return tile_narrow<R>(static_cast<const uint8_t*>(left) + row * STRIDE, panel, quads, run, c);
        const auto* a = static_cast<const int16_t*>(left) + row * STRIDE;
        for (int half = 0; half < 2; ++half) tile_wide<R>(a, panel + 32 * half, quads, c + 8 * half);
    }
};

}  // namespace
}  // namespace intaglio
