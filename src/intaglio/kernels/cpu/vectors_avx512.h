// Runs of 64 columns as four vectors of float32, from float32 or bfloat16.
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

constexpr int64_t BLOCK = 64;
using bf16 = uint16_t;

struct Block {
    __m512 v[4];
};

inline __m512i even_columns(__m512i words) { return _mm512_slli_epi32(words, 16); }
inline __m512i odd_columns(__m512i words) { return _mm512_and_si512(words, _mm512_set1_epi32(~0xffff)); }

inline Block block_of(__m512i a, __m512i b) {
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

// The 32-bit lanes of a block, each within -128..127, as 64 codes in the order of columns.
inline __m512i codes_of(const bf16*, const __m512i v[4]) {
    alignas(64) static const int16_t LOW_WORDS[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                      32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
    const __m512i byte = _mm512_set1_epi32(0xff);
    // a | (b & c)
    const __m512i a = _mm512_ternarylogic_epi32(_mm512_slli_epi32(v[1], 8), v[0], byte, 0xF8);
    const __m512i b = _mm512_ternarylogic_epi32(_mm512_slli_epi32(v[3], 8), v[2], byte, 0xF8);
    return _mm512_permutex2var_epi16(a, _mm512_load_si512(LOW_WORDS), b);
}
inline __m512i codes_of(const float*, const __m512i v[4]) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
    return _mm512_permutexvar_epi32(order, bytes);
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

// The same, of one element of a block.
template <typename T>
int64_t column_of(int64_t at) {
    const int64_t i = at / 16, lane = at % 16;
    return sizeof(T) == 2 ? 32 * (i / 2) + 2 * lane + i % 2 : at;
}

// One element of a float32 (1) or bfloat16 (2) array; `otherwise` of none.
inline float element(const void* p, int64_t type, int64_t i, float otherwise) {
    if (!p) return otherwise;
    if (type == 1) return static_cast<const float*>(p)[i];
    const uint32_t bits = static_cast<uint32_t>(static_cast<const bf16*>(p)[i]) << 16;
    float v;
    std::memcpy(&v, &bits, 4);
    return v;
}

// Per-column values in the order of the blocks of T, zeros up to a whole block.
template <typename T>
void in_block_order(const float* from, int64_t columns, float* to) {
    for (int64_t start = 0; start < columns; start += BLOCK)
        for (int64_t at = 0; at < BLOCK; ++at) {
            const int64_t column = start + column_of<T>(at);
            to[start + at] = column < columns ? from[column] : 0.0f;
        }
}

// Zeros at first. In place of std::vector, whose code would be shared with units for older processors.
template <typename T>
struct Array {
    T* const data;

    explicit Array(int64_t count) : data(static_cast<T*>(std::calloc(count > 0 ? count : 1, sizeof(T)))) {
        if (!data) throw std::bad_alloc();
    }
    ~Array() { std::free(data); }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;
    T& operator[](int64_t i) const { return data[i]; }
};

}  // namespace
}  // namespace intaglio
