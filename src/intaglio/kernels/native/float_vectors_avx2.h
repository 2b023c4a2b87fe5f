// Eight float32 at a time, from bfloat16 and back, for AVX2.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace intaglio {
namespace {

constexpr int64_t EIGHT = 8;

inline int64_t round_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

inline __m256 load8(const float* p) { return _mm256_loadu_ps(p); }
inline __m256 load8(const uint16_t* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
inline __m256 load8(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

// The first `count`, zeros after them; nothing past them is read.
template <typename T>
inline __m256 load8(const T* p, int64_t count) {
    if (count >= EIGHT) return load8(p);
    alignas(32) T some[EIGHT] = {};
    if (count > 0) std::memcpy(some, p, count * sizeof(T));
    return load8(some);
}

// To nearest, ties to even; NaN stays NaN.
inline __m128i bfloat16_of(__m256 v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i words = _mm256_blendv_epi8(up, _mm256_set1_epi32(0x7fc0), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

inline void store8(float* p, __m256 v) { _mm256_storeu_ps(p, v); }
inline void store8(uint16_t* p, __m256 v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bfloat16_of(v)); }

// The first `count`; nothing past them is written.
template <typename T>
inline void store8(T* p, __m256 v, int64_t count) {
    if (count >= EIGHT) return store8(p, v);
    alignas(32) T some[EIGHT];
    store8(some, v);
    if (count > 0) std::memcpy(p, some, count * sizeof(T));
}

// All bits of the first `count` lanes.
inline __m256 first8(int64_t count) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const auto all = static_cast<int32_t>(count < EIGHT ? count : EIGHT);
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(all), lanes));
}

// `columns` values times `factor`, zeros after them up to a multiple of 8.
template <typename T>
inline void widen(const T* from, int64_t columns, float factor, float* to) {
    const __m256 by = _mm256_set1_ps(factor);
    for (int64_t c = 0; c < columns; c += EIGHT) store8(to + c, _mm256_mul_ps(load8(from + c, columns - c), by));
}

inline float highest(__m256 v) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline float sum_of(__m256 v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// 2^x with a relative error under 2.6e-6; 0 below -126, 2^127 above 127. NaN stays NaN.
inline __m256 exp2(__m256 x) {
    const __m256 in_reach = _mm256_min_ps(_mm256_set1_ps(127.0f), x);
    const __m256 n = _mm256_floor_ps(in_reach), f = _mm256_sub_ps(in_reach, n);
    __m256 p = _mm256_set1_ps(0.013534167916f);  // minimax on [0, 1]
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.052011460611f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.241442756891f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.693003834470f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.000002593371f));
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    const __m256 scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
    const __m256 normal = _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_GE_OQ);
    const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    return _mm256_blendv_ps(_mm256_and_ps(scaled, normal), x, nan);
}

}  // namespace
}  // namespace intaglio
