// From the weight in memory to panels of 16 columns, for either direction.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "weight_product/native/blocks_ymm.h"
#include "weight_product/native/weight_codes.h"

namespace intaglio {

// 8 rows of 32 codes -> 8 vectors, one for each four codes, of the 8 rows' four.
static inline void transpose_quads(const int8_t* from, int64_t stride, int8_t* to, int64_t to_stride) {
    __m256i r[8], s[8];
    for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i * stride));
    for (int i = 0; i < 8; i += 2) {
        s[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_unpacklo_epi64(s[i], s[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi64(s[i], s[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi64(s[i + 1], s[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi64(s[i + 1], s[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        const __m256i low = _mm256_permute2x128_si256(r[i], r[i + 4], 0x20);
        const __m256i high = _mm256_permute2x128_si256(r[i], r[i + 4], 0x31);
        _mm256_store_si256(reinterpret_cast<__m256i*>(to + i * to_stride), low);
        _mm256_store_si256(reinterpret_cast<__m256i*>(to + (i + 4) * to_stride), high);
    }
}

// Panels of columns [n, n + columns) over steps [k, k + count), for `output`: a column is a row of the weight.
// `temporary` has room for PANEL * MAX_BLOCK codes; `panels` for whole panels and whole quads.
static inline void unpack_output(
    const Weight& w, int64_t n, int64_t columns, int64_t k, int64_t count, int8_t* temporary, int8_t* panels) {
    const int64_t quads = (count + 3) / 4;
    for (int64_t p = 0; p * PANEL < columns; ++p) {
        int8_t* to = panels + p * quads * 4 * PANEL;
        const int64_t here = columns - p * PANEL < PANEL ? columns - p * PANEL : PANEL;
        for (int64_t j = 0; j < PANEL; ++j) {
            int8_t* row = temporary + j * MAX_BLOCK;
            if (j < here) product_codes(w, n + p * PANEL + j, k, count, row);
            const int64_t filled = j < here ? count : 0;
            std::memset(row + filled, 0, 4 * quads - filled);
        }
        int64_t q = 0;
        for (; q + 8 <= quads; q += 8)
            for (int half = 0; half < 2; ++half)
                transpose_quads(temporary + half * 8 * MAX_BLOCK + 4 * q, MAX_BLOCK, to + 64 * q + 32 * half, 64);
        for (; q < quads; ++q)
            for (int64_t j = 0; j < PANEL; ++j) std::memcpy(to + 64 * q + 4 * j, temporary + j * MAX_BLOCK + 4 * q, 4);
    }
}

// The same for `grad_input`: step r is tap r / out, output channel r % out; a column is an input channel.
static inline void unpack_grad_input(
    const Weight& w, int64_t n, int64_t columns, int64_t k, int64_t count, int8_t* temporary, int8_t* panels) {
    const int64_t quads = (count + 3) / 4, width = (columns + PANEL - 1) / PANEL * PANEL;
    if (!count) return;  // no output channels, and nothing to divide by
    int64_t tap = k / w.out, o = k % w.out;
    for (int64_t q = 0; q < quads; ++q) {
        int8_t* rows[4];
        for (int64_t j = 0; j < 4; ++j) {
            rows[j] = temporary + j * MAX_BLOCK;
            const bool inside = 4 * q + j < count;
            if (inside) product_codes(w, o, tap * w.in + n, columns, rows[j]);
            const int64_t filled = inside ? columns : 0;
            if (filled < width) std::memset(rows[j] + filled, 0, width - filled);
            if (++o == w.out) {
                o = 0;
                ++tap;
            }
        }
        for (int64_t p = 0; p * PANEL < columns; ++p) {
            __m128i v[4];
            for (int j = 0; j < 4; ++j) v[j] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[j] + p * PANEL));
            const __m128i a = _mm_unpacklo_epi8(v[0], v[1]), b = _mm_unpackhi_epi8(v[0], v[1]);
            const __m128i c = _mm_unpacklo_epi8(v[2], v[3]), d = _mm_unpackhi_epi8(v[2], v[3]);
            auto* to = reinterpret_cast<__m128i*>(panels + (p * quads + q) * 64);
            _mm_store_si128(to, _mm_unpacklo_epi16(a, c));
            _mm_store_si128(to + 1, _mm_unpackhi_epi16(a, c));
            _mm_store_si128(to + 2, _mm_unpacklo_epi16(b, d));
            _mm_store_si128(to + 3, _mm_unpackhi_epi16(b, d));
        }
    }
}

// The largest |code| of a block of panels, and the sum of each column times 128 added to `offset`.
static inline int panel_range(const int8_t* panels, int64_t count, int64_t quads, int32_t* offset) {
    const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
    __m256i top = _mm256_setzero_si256();
    for (int64_t p = 0; p < count; ++p) {
        __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (int64_t q = 0; q < quads; ++q)
            for (int half = 0; half < 2; ++half) {
                const int8_t* from = panels + (p * quads + q) * 64 + 32 * half;
                const __m256i v = _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
                top = _mm256_max_epu8(top, _mm256_abs_epi8(v));
                sum[half] = _mm256_add_epi32(sum[half], _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, v), ones16));
            }
        for (int half = 0; half < 2; ++half) add_to(offset + p * PANEL + 8 * half, _mm256_slli_epi32(sum[half], 7));
    }
    alignas(32) uint8_t lanes[32];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), top);
    int largest = 0;
    for (uint8_t lane : lanes) largest = lane > largest ? lane : largest;
    return largest;
}

}  // namespace intaglio
