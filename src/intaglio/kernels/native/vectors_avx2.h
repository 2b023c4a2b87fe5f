// Runs of 32 columns as four vectors of float32, from float32 or bfloat16, and what is computed with a vector: as
// `vectors_avx512.h`, which explains the order of a block.
#pragma once
#include "native/float_vectors_avx2.h"

namespace intaglio {
namespace {

using Vec = __m256;
constexpr int64_t LANES = 8;
constexpr int VECTORS = 4;
constexpr int64_t BLOCK = VECTORS * LANES;
using bf16 = uint16_t;

struct Block {
    Vec v[VECTORS];
};

inline Vec constant(float v) { return _mm256_set1_ps(v); }
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec fmadd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec fmsub(Vec a, Vec b, Vec c) { return _mm256_fmsub_ps(a, b, c); }
inline Vec fnmadd(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }
inline Vec minimum(Vec a, Vec b) { return _mm256_min_ps(a, b); }  // b where one is NaN
inline Vec maximum(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec absolute(Vec x) { return _mm256_andnot_ps(constant(-0.0f), x); }
inline Vec to_nearest(Vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec times_power(Vec x, Vec n) {  // x 2^n, both normal
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent));
}
inline Vec where_positive(Vec x, Vec yes, Vec no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ));
}

// 1 / x. Not `rcpps`: what that gives differs between makers of processors.
template <bool Coarse>
inline Vec reciprocal(Vec x) {
    return _mm256_div_ps(constant(1.0f), x);
}

// Sums the lanes in float64: one rounding for the row.
inline double total(Vec v) {
    const __m256d four = _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(v)), _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

inline __m256i words_at(const bf16* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Vec even_columns(__m256i words) { return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)); }
inline Vec odd_columns(__m256i words) { return _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(~0xffff))); }

inline Block load_block(const bf16* p) {
    const __m256i a = words_at(p), b = words_at(p + 16);
    return {{even_columns(a), odd_columns(a), even_columns(b), odd_columns(b)}};
}
inline Block load_block(const float* p) { return {{load(p), load(p + 8), load(p + 16), load(p + 24)}}; }

// 32 codes as floats, in the order of the blocks of the first argument's type.
inline Block codes_block(const bf16*, const int8_t* p) {
    Block block;
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
        // an even column below an odd one, which has the sign
        const __m256i words = _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * half)));
        block.v[2 * half] = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(words, 24), 24));
        block.v[2 * half + 1] = _mm256_cvtepi32_ps(_mm256_srai_epi32(words, 8));
    }
    return block;
}
inline Block codes_block(const float*, const int8_t* p) { return {{load8(p), load8(p + 8), load8(p + 16), load8(p + 24)}}; }

// As many as are left of a row, 32 at most, zeros after them. Nothing past them is read.
template <typename T>
inline Block load_part(const T* p, int64_t left) {
    if (left >= BLOCK) return load_block(p);
    alignas(32) T some[BLOCK] = {};
    std::memcpy(some, p, left * sizeof(T));
    return load_block(some);
}
template <typename T>
inline Block codes_part(const T* kind, const int8_t* p, int64_t left) {
    if (left >= BLOCK) return codes_block(kind, p);
    alignas(32) int8_t some[BLOCK] = {};
    std::memcpy(some, p, left);
    return codes_block(kind, some);
}

inline void store_block(float* p, const Block& x) {
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS; ++i) store8(p + 8 * i, x.v[i]);
}
inline __m256i rounded_words(Vec v) {  // to bfloat16, in the upper half of each lane; NaN stays NaN
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(up, _mm256_set1_epi32(0x7fc00000), nan);
}
inline void store_block(bf16* p, const Block& x) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
        const __m256i even = _mm256_srli_epi32(rounded_words(x.v[2 * half]), 16), odd = rounded_words(x.v[2 * half + 1]);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 16 * half), _mm256_blend_epi16(even, odd, 0xaa));
    }
}

// As many as are left of a row, 32 at most; nothing past them is written.
template <typename T>
inline void store_part(T* p, const Block& x, int64_t left) {
    if (left >= BLOCK) return store_block(p, x);
    alignas(32) T some[BLOCK];
    store_block(some, x);
    std::memcpy(p, some, left * sizeof(T));
}

// Zero where the column of the i-th vector of a block is not among the `left`.
template <typename T>
inline Vec inside(Vec x, int64_t left, int i) {
    if (left >= BLOCK) return x;
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i columns = sizeof(T) == 4 ? _mm256_add_epi32(lanes, _mm256_set1_epi32(8 * i))
                                           : _mm256_add_epi32(_mm256_slli_epi32(lanes, 1), _mm256_set1_epi32(16 * (i >> 1) + (i & 1)));
    const __m256i in = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(left)), columns);
    return _mm256_and_ps(x, _mm256_castsi256_ps(in));
}

}  // namespace
}  // namespace intaglio

#include "native/block_order.h"
