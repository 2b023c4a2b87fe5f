// Panels for `vpdpbusd`, and the innermost loop over them, for operands with one short side.
//
// A panel holds 16 columns of a right operand: for every four steps of the reduction 16 times 4 codes, 64 bytes. The left
// operand's codes become unsigned by adding 128; the panel's column sums times 128 are taken off where sums begin.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace intaglio {

constexpr int64_t PANEL = 16;
constexpr int TILE_ROWS = 16;

// A right operand: `columns` times `reduction` codes, one of its strides 1.
struct Right {
    const int8_t* codes;
    int64_t columns, reduction;
    int64_t column_stride, reduction_stride;

    int64_t quads() const { return (reduction + 3) / 4; }
    int64_t panels() const { return (columns + PANEL - 1) / PANEL; }
};

// 16 columns from `column` on, steps [4 from, 4 to) of the reduction -> to[64 (to - from)]; what is outside is 0.
inline void pack_slowly(const Right& w, int64_t column, int64_t from, int64_t to, int8_t* out) {
    std::memset(out, 0, 64 * (to - from));
    const int64_t stop = std::min(4 * to, w.reduction), width = std::min(PANEL, w.columns - column);
    for (int64_t k = 4 * from; k < stop; ++k)
        for (int64_t c = 0; c < width; ++c)
            out[64 * (k / 4 - from) + 4 * c + k % 4] = w.codes[(column + c) * w.column_stride + k * w.reduction_stride];
}

inline __m128i load16(const int8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

// Four rows of 16 columns, column by column.
inline __m512i interleave4(__m128i a, __m128i b, __m128i c, __m128i d) {
    const __m128i ab0 = _mm_unpacklo_epi8(a, b), ab1 = _mm_unpackhi_epi8(a, b);
    const __m128i cd0 = _mm_unpacklo_epi8(c, d), cd1 = _mm_unpackhi_epi8(c, d);
    const __m256i low = _mm256_set_m128i(_mm_unpackhi_epi16(ab0, cd0), _mm_unpacklo_epi16(ab0, cd0));
    const __m256i high = _mm256_set_m128i(_mm_unpackhi_epi16(ab1, cd1), _mm_unpacklo_epi16(ab1, cd1));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

inline void pack(const Right& w, int64_t panel, int64_t from, int64_t to, int8_t* out) {
    const int64_t column = panel * PANEL;
    const int64_t whole = std::min(to, w.reduction / 4);
    if (w.columns - column < PANEL || (w.column_stride != 1 && w.reduction_stride != 1)) {
        pack_slowly(w, column, from, to, out);
        return;
    }
    const int8_t* at = w.codes + column * w.column_stride;
    if (w.column_stride == 1) {
        for (int64_t q = from; q < whole; ++q) {
            const int8_t* row = at + 4 * q * w.reduction_stride;
            _mm512_store_si512(out + 64 * (q - from),
                interleave4(load16(row), load16(row + w.reduction_stride), load16(row + 2 * w.reduction_stride),
                    load16(row + 3 * w.reduction_stride)));
        }
    } else {
        for (int64_t q = from; q < whole; ++q)
            for (int64_t c = 0; c < PANEL; ++c) std::memcpy(out + 64 * (q - from) + 4 * c, at + c * w.column_stride + 4 * q, 4);
    }
    const int64_t begun = std::max(from, whole);
    if (begun < to) pack_slowly(w, column, begun, to, out + 64 * (begun - from));
}

// -128 times the sum of each column of a panel.
inline __m512i start_of(const int8_t* panel, int64_t quads) {
    const __m512i offset = _mm512_set1_epi8(static_cast<char>(0x80));
    __m512i sum = _mm512_setzero_si512();
    for (int64_t q = 0; q < quads; ++q) sum = _mm512_dpbusd_epi32(sum, offset, _mm512_load_si512(panel + 64 * q));
    return _mm512_sub_epi32(_mm512_setzero_si512(), sum);
}

inline int32_t load4(const uint8_t* p) {
    int32_t v;
    std::memcpy(&v, p, 4);
    return v;
}

// R rows of unsigned codes against one panel -> 16 sums a row. FLIP: the codes are signed yet. The last quad may have
// fewer than four codes, which end where memory may end.
template <int R, bool FLIP>
__attribute__((noinline)) void tile(const uint8_t* a, int64_t lda, int64_t reduction, const int8_t* panel, __m512i start, int32_t* c, int64_t ldc) {
    const __m512i flip = _mm512_set1_epi32(static_cast<int32_t>(0x80808080u));
    __m512i sums[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) sums[r] = start;
    const int64_t whole = reduction / 4;
    for (int64_t q = 0; q < whole; ++q) {
        const __m512i b = _mm512_load_si512(panel + 64 * q);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            __m512i v = _mm512_set1_epi32(load4(a + r * lda + 4 * q));
            if (FLIP) v = _mm512_xor_si512(v, flip);
            sums[r] = _mm512_dpbusd_epi32(sums[r], v, b);
        }
    }
    if (reduction % 4) {
        const __m512i b = _mm512_load_si512(panel + 64 * whole);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            int32_t last = 0;
            std::memcpy(&last, a + r * lda + 4 * whole, reduction % 4);
            __m512i v = _mm512_set1_epi32(last);
            if (FLIP) v = _mm512_xor_si512(v, flip);
            sums[r] = _mm512_dpbusd_epi32(sums[r], v, b);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) _mm512_storeu_si512(c + r * ldc, sums[r]);
}

// As `tile`, for any number of rows.
template <bool FLIP>
inline void tiles(const uint8_t* a, int64_t lda, int64_t rows, int64_t reduction, const int8_t* panel, __m512i start,
    int32_t* c, int64_t ldc) {
    int64_t r = 0;
    for (; r + TILE_ROWS <= rows; r += TILE_ROWS) tile<TILE_ROWS, FLIP>(a + r * lda, lda, reduction, panel, start, c + r * ldc, ldc);
    for (; r + 4 <= rows; r += 4) tile<4, FLIP>(a + r * lda, lda, reduction, panel, start, c + r * ldc, ldc);
    for (; r < rows; ++r) tile<1, FLIP>(a + r * lda, lda, reduction, panel, start, c + r * ldc, ldc);
}

// A block of memory of one thread that grows and is kept, aligned to a cache line.
template <typename T>
class Scratch {
  public:
    T* of(int64_t count) {
        if (count > size_) {
            std::free(memory_);
            size_ = count;
            memory_ = static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64));
        }
        return memory_;
    }
    ~Scratch() { std::free(memory_); }

  private:
    T* memory_ = nullptr;
    int64_t size_ = 0;
};

}  // namespace intaglio
