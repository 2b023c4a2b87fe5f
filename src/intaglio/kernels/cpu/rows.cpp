// Rounding of rows to INT8, and sums over rows, for AVX2; `rows_avx512.cpp` has them for AVX-512.

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "level.h"
#include "rows.h"

namespace {

using namespace intaglio;

inline float load(const float* p, int64_t i) { return p[i]; }
inline float load(const uint16_t* p, int64_t i) {
    const uint32_t bits = static_cast<uint32_t>(p[i]) << 16;
    float v;
    std::memcpy(&v, &bits, 4);
    return v;
}

inline __m256 load8(const float* p) { return _mm256_loadu_ps(p); }
inline __m256 load8(const uint16_t* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

inline uint32_t bits_of(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    return bits;
}

// 24 random bits for one element: the finalizer of MurmurHash3 over its index and the seed.
inline float uniform(uint32_t seed, uint32_t index) {
    uint32_t h = index ^ seed;
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    return static_cast<float>(static_cast<int32_t>((h ^ (h >> 16)) >> 8)) * 0x1p-24f;
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

// Whole vectors of 32, to nearest; returns how many columns are done. No product exceeds 127.5, so none needs a clamp.
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

template <typename T, bool F, bool S>
void round_row(const T* x, const float* factor, float inverse, uint32_t seed, uint32_t index, int64_t columns, int8_t* to) {
    for (int64_t c = S ? 0 : round_nearest<T, F>(x, factor, inverse, columns, to); c < columns; ++c) {
        const float v = (F ? load(x, c) * factor[c] : load(x, c)) * inverse;
        const float rounded = S ? std::floor(v + uniform(seed, index + static_cast<uint32_t>(c))) : std::nearbyint(v);
        to[c] = static_cast<int8_t>(static_cast<int32_t>(std::min(std::max(rounded, -127.0f), 127.0f)));
    }
}

template <typename T, bool F>
void group(const Rows& q, int64_t g) {
    const T* x = static_cast<const T*>(q.x) + g * q.x_group_stride;
    const float* factor = F ? q.factor + g * q.samples / q.groups * q.columns : nullptr;
    int8_t* to = q.codes + g * q.rows * q.columns;
    uint32_t top = 0;
    for (int64_t r = 0; r < q.rows; ++r) top = std::max(top, largest<T, F>(x + r * q.x_stride, factor, q.columns));
    const float inverse = inverse_of(top, q.scale + g);
    if (inverse == 0.0f) {
        std::memset(to, 0, q.rows * q.columns);
        return;
    }
    const auto seed = static_cast<uint32_t>(q.seed);
    for (int64_t r = 0; r < q.rows; ++r) {
        const auto index = static_cast<uint32_t>((g * q.rows + r) * q.columns);
        if (q.stochastic)
            round_row<T, F, true>(x + r * q.x_stride, factor, inverse, seed, index, q.columns, to + r * q.columns);
        else
            round_row<T, F, false>(x + r * q.x_stride, factor, inverse, seed, index, q.columns, to + r * q.columns);
    }
}

template <typename A, typename B>
void column_sums(const ColumnSums& s, int64_t sample, int64_t from, int64_t to) {
    const int64_t width = to - from;
    std::vector<double> total(width, 0.0);
    std::vector<float> part(width);
    const B* all = static_cast<const B*>(s.b);
    for (int64_t start = 0; start < s.rows; start += SUMMED_ROWS) {
        std::fill(part.begin(), part.end(), 0.0f);
        for (int64_t r = start; r < std::min(start + SUMMED_ROWS, s.rows); ++r) {
            const int64_t row = sample * s.rows + r;
            const A* a = static_cast<const A*>(s.a) + row * s.a_stride + from;
            const float scale = s.scale ? s.scale[row / s.rows_per_scale] : 1.0f;
            if (all) {
                const B* b = all + row * s.columns + from;
                for (int64_t c = 0; c < width; ++c) part[c] += load(a, c) * (static_cast<float>(b[c]) * scale);
            } else {
                for (int64_t c = 0; c < width; ++c) part[c] += load(a, c);
            }
        }
        for (int64_t c = 0; c < width; ++c) total[c] += part[c];
    }
    for (int64_t c = 0; c < width; ++c) s.sums[sample * s.columns + from + c] = static_cast<float>(total[c]);
}

}  // namespace

extern "C" void intaglio_quantize_rows(const Rows* rows) {
    const Rows& q = *rows;
    if (level() >= AVX512) return quantize_rows_avx512(q);
#pragma omp parallel for num_threads(q.threads) schedule(static) if (q.threads > 1 && q.groups > 1)
    for (int64_t g = 0; g < q.groups; ++g) {
        if (q.x_type == 1)
            q.factor ? group<float, true>(q, g) : group<float, false>(q, g);
        else
            q.factor ? group<uint16_t, true>(q, g) : group<uint16_t, false>(q, g);
    }
}

extern "C" void intaglio_column_sums(const ColumnSums* sums) {
    const ColumnSums& s = *sums;
    if (level() >= AVX512) return column_sums_avx512(s);
    constexpr int64_t WIDTH = 256;
    const int64_t parts = (s.columns + WIDTH - 1) / WIDTH;
#pragma omp parallel for num_threads(s.threads) schedule(static) if (s.threads > 1)
    for (int64_t task = 0; task < s.samples * parts; ++task) {
        const int64_t from = task % parts * WIDTH, to = std::min(from + WIDTH, s.columns);
        const auto sum = s.b_type == 3 ? (s.a_type == 1 ? column_sums<float, int8_t> : column_sums<uint16_t, int8_t>)
                                       : (s.a_type == 1 ? column_sums<float, float> : column_sums<uint16_t, float>);
        sum(s, task / parts, from, to);
    }
}
