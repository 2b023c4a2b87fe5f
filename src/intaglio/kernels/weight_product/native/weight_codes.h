// From a row of the weight in memory to the INT8 codes that the product multiplies with, for AVX2 and above.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "weight_product/native/product.h"

namespace intaglio {

constexpr int64_t MAX_BLOCK = 1024;  // codes of one row that are unpacked at a time, at most

// Codes [k, k + count) of row `o` as they are stored: int8; or nibbles, 0..15, or -8..7 when `extend`.
static inline void stored_codes(const Weight& w, bool extend, int64_t o, int64_t k, int64_t count, int8_t* to) {
    const uint8_t* row = w.codes + o * w.row_bytes;
    if (w.bits == 8) {
        std::memcpy(to, row + k, count);
        return;
    }
    const int bias = extend ? 8 : 0;
    const auto nibble = [&](int64_t at) {
        return static_cast<int8_t>((((row[at >> 1] >> ((at & 1) * 4)) & 15) ^ bias) - bias);
    };
    int64_t i = 0;
    if ((k & 1) && count) {
        to[0] = nibble(k);
        i = 1;
    }
    const __m256i low = _mm256_set1_epi8(15), sign = _mm256_set1_epi8(static_cast<char>(bias));
    for (; i + 32 <= count; i += 32) {
        const __m128i even = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + ((k + i) >> 1)));
        const __m128i odd = _mm_srli_epi16(even, 4);
        __m256i v = _mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd));
        v = _mm256_sub_epi8(_mm256_xor_si256(_mm256_and_si256(v, low), sign), sign);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), v);
    }
    for (; i < count; ++i) to[i] = nibble(k + i);
}

// What each of the 16 nibbles stands for in one group: rint((value - zero) * ratio).
static inline __m128i table_of(const float* values, float zero, float ratio) {
    __m256i v[2];
    for (int half = 0; half < 2; ++half) {
        const __m256 value = _mm256_sub_ps(_mm256_loadu_ps(values + 8 * half), _mm256_set1_ps(zero));
        v[half] = _mm256_cvtps_epi32(_mm256_mul_ps(value, _mm256_set1_ps(ratio)));
    }
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v[0], v[1]), 0xD8);
    return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

// The same codes as the INT8 codes that the product multiplies with.
static inline void product_codes(const Weight& w, int64_t o, int64_t k, int64_t count, int8_t* to) {
    static const float SIGNED[16] = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
    const bool plain = !w.zero_point && !w.ratio;
    stored_codes(w, plain, o, k, count, to);
    if (plain) return;
    for (int64_t i = 0; i < count;) {
        const int64_t group = (k + i) / w.group_size, at = o * w.groups + group;
        const int64_t end = (group + 1) * w.group_size - k, stop = end < count ? end : count;
        const int zero = w.zero_point ? w.zero_point[at] : 0;
        const float ratio = w.ratio ? w.ratio[at] : 1.0f;
        if (w.bits == 4) {
            const __m128i table = table_of(w.levels ? w.levels : SIGNED, static_cast<float>(zero), ratio);
            for (; i + 16 <= stop; i += 16) {
                auto* p = reinterpret_cast<__m128i*>(to + i);
                _mm_storeu_si128(p, _mm_shuffle_epi8(table, _mm_loadu_si128(p)));
            }
            alignas(16) int8_t lanes[16];
            _mm_store_si128(reinterpret_cast<__m128i*>(lanes), table);
            for (; i < stop; ++i) to[i] = lanes[to[i]];
        } else {
            for (; i < stop; ++i)
                to[i] = static_cast<int8_t>(static_cast<int>(std::nearbyint(static_cast<float>(to[i] - zero) * ratio)));
        }
    }
}

}  // namespace intaglio
