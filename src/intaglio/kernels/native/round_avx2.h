// Rounding of one row to INT8, to nearest, for AVX2.
#pragma once
#include <algorithm>
#include <cmath>

#include "native/float_vectors_avx2.h"
#include "native/group_scale.h"

namespace intaglio {
namespace {

inline float load(const float* p, int64_t i) { return p[i]; }
inline float load(const uint16_t* p, int64_t i) {
    const uint32_t bits = static_cast<uint32_t>(p[i]) << 16;
    float v;
    std::memcpy(&v, &bits, 4);
    return v;
}

inline uint32_t bits_of(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    return bits;
}

// The bits of |x * factor| order like the numbers, and what is not finite lies above all.
template <typename T, bool F>
uint32_t largest(const T* x, const float* factor, int64_t columns) {
    int32_t top = 0;
    for (int64_t c = 0; c < columns; ++c) {
        const float v = F ? load(x, c) * factor[c] : load(x, c);
        top = std::max(top, static_cast<int32_t>(bits_of(v) & 0x7fffffff));
    }
    return static_cast<uint32_t>(top);
}

// Whole vectors of 32; returns how many columns are done. No product exceeds 127.5, so none needs a clamp.
template <typename T, bool F>
int64_t round_nearest(const T* x, const float* factor, float inverse, int64_t columns, int8_t* to) {
    const __m256 scale = _mm256_set1_ps(inverse);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    int64_t c = 0;
    for (; c + 32 <= columns; c += 32) {
        __m256i v[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            __m256 value = load8(x + c + 8 * i);
            if (F) value = _mm256_mul_ps(value, _mm256_loadu_ps(factor + c + 8 * i));
            v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(value, scale));
        }
        const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + c), _mm256_permutevar8x32_epi32(bytes, order));
    }
    return c;
}

template <typename T, bool F>
void round_row(const T* x, const float* factor, float inverse, int64_t columns, int8_t* to) {
    for (int64_t c = round_nearest<T, F>(x, factor, inverse, columns, to); c < columns; ++c) {
        const float rounded = std::nearbyint((F ? load(x, c) * factor[c] : load(x, c)) * inverse);
        to[c] = static_cast<int8_t>(static_cast<int32_t>(std::min(std::max(rounded, -127.0f), 127.0f)));
    }
}

// A row by itself; returns its scale.
template <typename T>
float quantize_row(const T* x, int64_t columns, int8_t* to) {
    float scale;
    const float inverse = inverse_of(largest<T, false>(x, nullptr, columns), &scale);
    if (inverse == 0.0f)
        std::memset(to, 0, columns);
    else
        round_row<T, false>(x, nullptr, inverse, columns, to);
    return scale;
}

}  // namespace
}  // namespace intaglio
