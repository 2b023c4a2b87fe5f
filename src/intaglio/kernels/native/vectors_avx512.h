// Runs of 64 columns as four vectors of float32, from float32 or bfloat16, and what is computed with a vector.
//
// bfloat16 is taken apart by words: even columns in one vector, odd ones in the next, which costs one operation each.
// `column_of` says where an element of a block comes from. Operands by column are brought into that order once
// (`in_block_order`).
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace intaglio {
namespace {  // a copy for each set of instructions: the linker keeps but one of what it may share

using Vec = __m512;
constexpr int64_t LANES = 16;
constexpr int VECTORS = 4;
constexpr int64_t BLOCK = VECTORS * LANES;
using bf16 = uint16_t;

struct Block {
    Vec v[VECTORS];
};

inline Vec constant(float v) { return _mm512_set1_ps(v); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec fmadd(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec fmsub(Vec a, Vec b, Vec c) { return _mm512_fmsub_ps(a, b, c); }
inline Vec fnmadd(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }
inline Vec minimum(Vec a, Vec b) { return _mm512_min_ps(a, b); }  // b where one is NaN
inline Vec maximum(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec absolute(Vec x) { return _mm512_abs_ps(x); }
inline Vec to_nearest(Vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec times_power(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }  // x 2^n
inline Vec where_positive(Vec x, Vec yes, Vec no) {
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ), yes);
}

// 1 / x from 14 bits, by a step of Newton unless coarse: a relative error under 2e-7. x between 2^-126 and 2^126.
template <bool Coarse>
inline Vec reciprocal(Vec x) {
    const Vec r = _mm512_rcp14_ps(x);
    return Coarse ? r : fmadd(r, fnmadd(x, r, constant(1.0f)), r);
}

// Sums the lanes in float64: one rounding for the row.
inline double total(Vec v) {
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    const __m512d high = _mm512_cvtps_pd(_mm512_castps512_ps256(_mm512_shuffle_f32x4(v, v, 0xee)));
    return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
}

inline __m512i even_columns(__m512i words) { return _mm512_slli_epi32(words, 16); }
inline __m512i odd_columns(__m512i words) { return _mm512_and_si512(words, _mm512_set1_epi32(~0xffff)); }

inline Block block_of(__m512i a, __m512i b) {
    __asm__("" : "+v"(a), "+v"(b));  // else GCC loads them twice, once for each half of their words
    return {{_mm512_castsi512_ps(even_columns(a)), _mm512_castsi512_ps(odd_columns(a)),
             _mm512_castsi512_ps(even_columns(b)), _mm512_castsi512_ps(odd_columns(b))}};
}

inline uint64_t first(int64_t count) { return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1; }

inline Block load_block(const bf16* p) { return block_of(_mm512_loadu_si512(p), _mm512_loadu_si512(p + 32)); }
inline Block load_block(const float* p) {
    return {{_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16), _mm512_loadu_ps(p + 32), _mm512_loadu_ps(p + 48)}};
}

// The first `count` < 64 columns, zeros after them. Nothing past them is read.
inline Block load_block(const bf16* p, int64_t count) {
    const uint64_t mask = first(count);
    return block_of(_mm512_maskz_loadu_epi16(static_cast<__mmask32>(mask), p),
                    _mm512_maskz_loadu_epi16(static_cast<__mmask32>(mask >> 32), p + 32));
}
inline Block load_block(const float* p, int64_t count) {
    const uint64_t mask = first(count);
    Block block;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
        block.v[i] = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> (16 * i)), p + 16 * i);
    return block;
}

// As many as are left of a row, 64 at most.
template <typename T>
inline Block load_part(const T* p, int64_t left) {
    return left >= BLOCK ? load_block(p) : load_block(p, left);
}

// 64 codes as floats, in the order of the blocks of the first argument's type; zeros where the mask has none.
inline Block codes_block(const bf16*, const int8_t* b, uint64_t mask) {
    Block block;
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
        const __m256i bytes = _mm256_maskz_loadu_epi8(static_cast<__mmask32>(mask >> (32 * half)), b + 32 * half);
        const __m512i words = _mm512_cvtepi16_epi32(bytes);  // an even column below an odd one, which has the sign
        block.v[2 * half] = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(words, 24), 24));
        block.v[2 * half + 1] = _mm512_cvtepi32_ps(_mm512_srai_epi32(words, 8));
    }
    return block;
}
inline Block codes_block(const float*, const int8_t* b, uint64_t mask) {
    Block block;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m128i bytes = _mm_maskz_loadu_epi8(static_cast<__mmask16>(mask >> (16 * i)), b + 16 * i);
        block.v[i] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    }
    return block;
}

template <typename T>
inline Block codes_part(const T* kind, const int8_t* p, int64_t left) {
    return codes_block(kind, p, first(left));
}

// To bfloat16, nearest, ties to even; NaN stays NaN. Even columns below odd ones.
#ifdef __AVX512BF16__
inline __m512i words_of(__m512 even, __m512 odd) {
    alignas(64) static const int16_t PAIRS[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                  8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i words = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
    return _mm512_permutexvar_epi16(_mm512_load_si512(PAIRS), words);
}
#else
inline __m512i rounded_words(__m512 v) {  // in the upper half of each lane
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
    return _mm512_mask_mov_epi32(up, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
}

inline __m512i words_of(__m512 even, __m512 odd) {
    const __m512i low = _mm512_srli_epi32(rounded_words(even), 16);
    return _mm512_mask_mov_epi16(low, 0xaaaaaaaa, rounded_words(odd));
}
#endif

// As many as are left of a row, 64 at most; nothing past them is written.
inline void store_part(bf16* p, const Block& x, int64_t left) {
    const __m512i a = words_of(x.v[0], x.v[1]), b = words_of(x.v[2], x.v[3]);
    if (left >= BLOCK) {
        _mm512_storeu_si512(p, a);
        _mm512_storeu_si512(p + 32, b);
        return;
    }
    const uint64_t mask = first(left);
    _mm512_mask_storeu_epi16(p, static_cast<__mmask32>(mask), a);
    if (left > 32) _mm512_mask_storeu_epi16(p + 32, static_cast<__mmask32>(mask >> 32), b);
}
inline void store_part(float* p, const Block& x, int64_t left) {
    const uint64_t mask = first(left);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
        if (left >= BLOCK)
            _mm512_storeu_ps(p + 16 * i, x.v[i]);
        else
            _mm512_mask_storeu_ps(p + 16 * i, static_cast<__mmask16>(mask >> (16 * i)), x.v[i]);
}

// The lowest bytes of the lanes of a block, in the order of columns.
inline __m512i low_bytes(const __m512i v[4], const uint8_t* order_of_two) {
    const __m512i order = _mm512_castsi256_si512(_mm256_load_si256(reinterpret_cast<const __m256i*>(order_of_two)));
    const __m512i a = _mm512_permutex2var_epi8(v[0], order, v[1]), b = _mm512_permutex2var_epi8(v[2], order, v[3]);
    return _mm512_inserti64x4(a, _mm512_castsi512_si256(b), 1);
}
inline __m512i low_bytes(const bf16*, const __m512i v[4]) {
    alignas(32) static const uint8_t IN_TURN[32] = {0,  64, 4,  68, 8,  72,  12, 76,  16, 80,  20, 84,  24, 88,  28, 92,
                                                    32, 96, 36, 100, 40, 104, 44, 108, 48, 112, 52, 116, 56, 120, 60, 124};
    return low_bytes(v, IN_TURN);
}
inline __m512i low_bytes(const float*, const __m512i v[4]) {
    alignas(32) static const uint8_t ONE_AFTER_THE_OTHER[32] = {0,  4,  8,  12, 16, 20, 24, 28,  32,  36,  40,  44,  48,  52,  56,  60,
                                                                64, 68, 72, 76, 80, 84, 88, 92, 96, 100, 104, 108, 112, 116, 120, 124};
    return low_bytes(v, ONE_AFTER_THE_OTHER);
}

// The column, from the start of its block, of each lane of the i-th vector.
inline __m512i columns_of(const bf16*, int i) {
    const __m512i lanes = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_add_epi32(lanes, _mm512_set1_epi32(32 * (i >> 1) + (i & 1)));
}
inline __m512i columns_of(const float*, int i) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_add_epi32(lanes, _mm512_set1_epi32(16 * i));
}

// Zero where the column of the i-th vector of a block is not among the `left`.
template <typename T>
inline Vec inside(Vec x, int64_t left, int i) {
    if (left >= BLOCK) return x;
    const T* kind = nullptr;
    return _mm512_maskz_mov_ps(_mm512_cmplt_epi32_mask(columns_of(kind, i), _mm512_set1_epi32(static_cast<int>(left))), x);
}

}  // namespace
}  // namespace intaglio

#include "native/block_order.h"

namespace intaglio {
namespace {

// As the general one, a block at a time.
template <>
inline void in_block_order<bf16>(const float* from, int64_t columns, float* to) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    for (int64_t c = 0; c < columns; c += BLOCK) {
        const Block x = load_part(from + c, columns - c);
#pragma GCC unroll 2
        for (int half = 0; half < 4; half += 2) {
            _mm512_storeu_ps(to + c + 16 * half, _mm512_permutex2var_ps(x.v[half], even, x.v[half + 1]));
            _mm512_storeu_ps(to + c + 16 * half + 16, _mm512_permutex2var_ps(x.v[half], odd, x.v[half + 1]));
        }
    }
}

}  // namespace
}  // namespace intaglio
