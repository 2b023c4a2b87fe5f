// The innermost loops, for AVX2: a few rows of the left operand against one panel of 16 columns.
//
// A panel holds, for every four steps of the reduction, 16 columns of 4 codes: 64 bytes.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace intaglio {

constexpr int TILE_ROWS = 6;
constexpr int PANEL = 16;

static inline __m256i broadcast4(const uint8_t* p) {
    int32_t v;
    std::memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

static inline __m256i broadcast8(const int16_t* p) {
    int64_t v;
    std::memcpy(&v, p, 8);
    return _mm256_set1_epi64x(v);
}

static inline void add_to(int32_t* c, __m256i v) {
    auto* p = reinterpret_cast<__m256i*>(c);
    _mm256_storeu_si256(p, _mm256_add_epi32(_mm256_loadu_si256(p), v));
}

// Keeps GCC from working on several rows at once, for which there are not enough registers.
static inline void in_order(__m256i& a, __m256i& b) { __asm__ volatile("" : "+x"(a), "+x"(b)); }

// Small codes: 16-bit sums of `run` products of pairs, |sum| <= run * 2 * 255 * max|b| <= 32767, then widened.
template <int R>
__attribute__((noinline)) void tile_narrow(
    const uint8_t* a, int64_t lda, const int8_t* b, int64_t quads, int64_t run, int32_t* c, int64_t ldc) {
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
                const __m256i v = broadcast4(aq + r * lda);
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
                const __m256i v = broadcast4(aq + r * lda);
                acc[r][0] = _mm256_add_epi16(acc[r][0], _mm256_maddubs_epi16(v, b0));
                acc[r][1] = _mm256_add_epi16(acc[r][1], _mm256_maddubs_epi16(v, b1));
                in_order(acc[r][0], acc[r][1]);
            }
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            add_to(c + r * ldc, _mm256_madd_epi16(acc[r][0], ones));
            add_to(c + r * ldc + 8, _mm256_madd_epi16(acc[r][1], ones));
        }
    }
}

// Any codes: products of 16-bit operands, whose pairs always fit 32 bits. Half a panel: 8 columns.
template <int R>
__attribute__((noinline)) void tile_wide(
    const int16_t* a, int64_t lda, const int8_t* b, int64_t quads, int32_t* c, int64_t ldc) {
    __m256i acc[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    for (int64_t q = 0; q < quads; ++q, a += 4, b += 64) {
        const __m256i b0 = _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(b)));
        const __m256i b1 = _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(b + 16)));
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            const __m256i v = broadcast8(a + r * lda);
            acc[r][0] = _mm256_add_epi32(acc[r][0], _mm256_madd_epi16(v, b0));
            acc[r][1] = _mm256_add_epi32(acc[r][1], _mm256_madd_epi16(v, b1));
            in_order(acc[r][0], acc[r][1]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {  // neighbours hold the two halves of a column's sum
        const __m256i sums = _mm256_hadd_epi32(acc[r][0], acc[r][1]);
        add_to(c + r * ldc, _mm256_permute4x64_epi64(sums, 0xD8));
    }
}

}  // namespace intaglio
