// Products with a low-rank pair on AVX-512 BF16. `vdpbf16ps` sums products of pairs along the last axis of both operands,
// so each packs the side that is not the activation's, which is small, in pairs of what is summed over.

#include "float_pair/native/float_pair.h"

#include <immintrin.h>

#include <cstdlib>
#include <cstring>

#include "native/transpose_avx512.h"

namespace intaglio {
namespace {

constexpr int64_t LANES = 16;
using bf16 = uint16_t;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline __m512bh as_pairs(__m512i v) { return (__m512bh)v; }
inline __mmask16 lanes(int64_t count) { return count >= LANES ? 0xffff : (1u << count) - 1; }

struct Packed {  // bfloat16, kept between calls
    bf16* data = nullptr;
    int64_t size = 0;
    ~Packed() { std::free(data); }
    bf16* at_least(int64_t elements) {
        if (elements > size) {
            std::free(data);
            size = ceil_div(elements, 2048) * 2048;
            data = static_cast<bf16*>(std::aligned_alloc(64, size * sizeof(bf16)));
            if (!data) std::abort();
        }
        return data;
    }
};

thread_local Packed packed;

// 16 values, `stride` apart, times `scale`, as bfloat16 in the low halves of the lanes.
inline __m512i low_halves(const float* from, int64_t stride, __mmask16 mask, __m512 scale) {
    __m512 v;
    if (stride == 1) {
        v = _mm512_maskz_loadu_ps(mask, from);
    } else {
        const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const __m512i index = _mm512_mullo_epi32(lane, _mm512_set1_epi32(static_cast<int32_t>(stride)));
        v = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, index, from, 4);
    }
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(v, scale)));
}

struct Side {
    int64_t length, stride;
};

// 16 lanes of up to 16 pairs that are neighbours in memory, from `pair` on.
inline void pack_neighbours(const FloatPair& p, Side lane_side, int64_t lane, int64_t length, int64_t pair, bf16* to) {
    const __m512 scale = _mm512_set1_ps(p.scale);
    const __mmask16 low = lanes(length - pair), high = length - pair > LANES ? lanes(length - pair - LANES) : 0;
    __m512i r[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) {
        const bool there = lane + i < lane_side.length;
        const float* from = p.a + (there ? lane + i : lane) * lane_side.stride + pair;
        const __m512 a = _mm512_maskz_loadu_ps(there ? low : 0, from), b = _mm512_maskz_loadu_ps(there ? high : 0, from + LANES);
        r[i] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(b, scale), _mm512_mul_ps(a, scale));
    }
    transpose(r);
    for (int64_t i = 0; i < least(LANES, ceil_div(length - pair, 2)); ++i) _mm512_store_si512(to + i * 2 * LANES, r[i]);
}

// 16 lanes of one pair, wherever they lie.
inline void pack_lanes(const FloatPair& p, Side lane_side, int64_t lane, Side pair_side, int64_t pair, bf16* to) {
    const __m512 scale = _mm512_set1_ps(p.scale);
    const __mmask16 mask = lanes(lane_side.length - lane);
    const float* from = p.a + lane * lane_side.stride + pair * pair_side.stride;
    __m512i v = low_halves(from, lane_side.stride, mask, scale);
    if (pair + 1 < pair_side.length) {
        const __m512i second = low_halves(from + pair_side.stride, lane_side.stride, mask, scale);
        v = _mm512_or_si512(v, _mm512_slli_epi32(second, 16));
    }
    _mm512_store_si512(to, v);
}

// `a` as vectors: of 16 neighbours along one side, each two along the other; pairs innermost. Every thread of the team
// takes a share.
void pack(const FloatPair& p, Side lane_side, Side pair_side, bf16* to) {
    const bool neighbours = pair_side.stride == 1;
    const int64_t pairs = ceil_div(pair_side.length, 2), at_once = neighbours ? LANES : 1;
    const int64_t cuts = ceil_div(pairs, at_once), all = ceil_div(lane_side.length, LANES) * cuts;
#pragma omp for schedule(static)
    for (int64_t at = 0; at < all; ++at) {
        const int64_t lane = at / cuts * LANES, pair = at % cuts * at_once;
        bf16* there = to + (lane / LANES * pairs + pair) * 2 * LANES;
        if (neighbours)
            pack_neighbours(p, lane_side, lane, pair_side.length, 2 * pair, there);
        else
            pack_lanes(p, lane_side, lane, pair_side, 2 * pair, there);
    }
}

inline __m512i broadcast_pair(const bf16* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return _mm512_set1_epi32(pair);
}

constexpr int DOWN_ROWS = 12;

// 16 ranks of R rows of h.
template <int R>
__attribute__((noinline)) void down(const FloatPair& p, const bf16* a, int64_t row, int64_t rank) {
    const bf16* x = static_cast<const bf16*>(p.x) + row * p.x_stride;
    __m512 acc[R];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) acc[r] = _mm512_setzero_ps();
    for (int64_t c = 0; c + 2 <= p.columns; c += 2, a += 2 * LANES) {
        const __m512bh pairs = as_pairs(_mm512_load_si512(a));
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) acc[r] = _mm512_dpbf16_ps(acc[r], pairs, as_pairs(broadcast_pair(x + r * p.x_stride + c)));
    }
    if (p.columns % 2)
        for (int r = 0; r < R; ++r) {
            const __m512i last = _mm512_set1_epi32(x[r * p.x_stride + p.columns - 1]);
            acc[r] = _mm512_dpbf16_ps(acc[r], as_pairs(_mm512_load_si512(a)), as_pairs(last));
        }
    const __mmask16 mask = lanes(p.rank - rank);
    for (int r = 0; r < R; ++r)
        _mm256_mask_storeu_epi16(p.h + (row + r) * p.rank + rank, mask, (__m256i)_mm512_cvtneps_pbh(acc[r]));
}

void down_rows(const FloatPair& p, const bf16* a, int64_t row, int64_t rank, int64_t rows) {
    if (rows == DOWN_ROWS) return down<DOWN_ROWS>(p, a, row, rank);
    for (int64_t r = 0; r < rows; ++r) down<1>(p, a, row + r, rank);
}

constexpr int UP_ROWS = 8, UP_VECTORS = 2;

// 16 columns of a row in the upper halves of the lanes: as floats, what they stand for. And back.
inline __m512i upper(const bf16* p, __mmask16 mask) {
    return _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16);
}
inline void store_row(bf16* x, __mmask16 mask, __m512 v) { _mm256_mask_storeu_epi16(x, mask, (__m256i)_mm512_cvtneps_pbh(v)); }

// V times 16 columns of R rows of x += h a, over `some` pairs of ranks; `a` is where the first of these columns begins, and
// `pairs` are all that it has.
template <int R, int V>
inline void up_columns(const FloatPair& p, const int32_t (*h)[128], int64_t some, int64_t pairs, const bf16* a, bf16* x, int64_t left) {
    __m512 acc[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) acc[r][v] = _mm512_castsi512_ps(upper(x + r * p.x_stride + v * LANES, lanes(left - v * LANES)));
    for (int64_t i = 0; i < some; ++i) {
        __m512bh column[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) column[v] = as_pairs(_mm512_load_si512(a + (v * pairs + i) * 2 * LANES));
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const __m512bh both = as_pairs(_mm512_set1_epi32(h[r][i]));
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], column[v], both);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) store_row(x + r * p.x_stride + v * LANES, lanes(left - v * LANES), acc[r][v]);
}

// R rows of x += h a.
template <int R>
__attribute__((noinline)) void up(const FloatPair& p, const bf16* a, int64_t row) {
    const int64_t pairs = ceil_div(p.rank, 2);
    bf16* x = static_cast<bf16*>(p.x) + row * p.x_stride;
    int32_t h[R][128];
    for (int64_t from = 0; from < pairs; from += 128) {  // almost always once: rank <= 256
        const int64_t some = least(128, pairs - from);
        for (int r = 0; r < R; ++r)
            for (int64_t i = 0; i < some; ++i) {
                const int64_t at = 2 * (from + i);
                const bf16* line = p.h + (row + r) * p.rank + at;
                h[r][i] = static_cast<int32_t>(line[0] | (at + 1 < p.rank ? static_cast<uint32_t>(line[1]) << 16 : 0));
            }
        int64_t c = 0;
        for (; c + UP_VECTORS * LANES <= p.columns; c += UP_VECTORS * LANES)
            up_columns<R, UP_VECTORS>(p, h, some, pairs, a + (c / LANES * pairs + from) * 2 * LANES, x + c, p.columns - c);
        for (; c < p.columns; c += LANES)
            up_columns<R, 1>(p, h, some, pairs, a + (c / LANES * pairs + from) * 2 * LANES, x + c, p.columns - c);
    }
}

inline __m512i upper(const int8_t* p, __mmask16 mask) {  // an INT8 code is exact in bfloat16
    return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, p))));
}

constexpr int64_t SUMMED_ROWS = 64;  // rows that are read whole before the next: their lines stay in the nearest cache

// `R` ranks of 16 columns of the sums, over rows [m, stop) onto what is there. `h` has, for every two tokens, 2 values of each rank.
template <int R, typename T>
__attribute__((noinline)) void sums(const FloatPair& p, const bf16* h, int64_t column, int64_t rank, int64_t m, int64_t stop) {
    const T* x = static_cast<const T*>(p.x) + column;
    const __mmask16 mask = lanes(p.columns - column);
    const int64_t stride = 2 * p.rank;
    float* to = p.sums + rank * p.columns + column;
    __m512 acc[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r] = m ? _mm512_maskz_loadu_ps(mask, to + r * p.columns) : _mm512_setzero_ps();
    for (; m < stop; m += 2) {
        __builtin_prefetch(x + (m + SUMMED_ROWS) * p.x_stride, 0, 2);
        __builtin_prefetch(x + (m + 1 + SUMMED_ROWS) * p.x_stride, 0, 2);
        const __m512i first = upper(x + m * p.x_stride, mask);
        const __m512i second = m + 1 < p.rows ? upper(x + (m + 1) * p.x_stride, mask) : _mm512_setzero_si512();
        const __m512bh pair = as_pairs(_mm512_or_si512(_mm512_srli_epi32(first, 16), second));
        const bf16* line = h + m / 2 * stride + 2 * rank;
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) acc[r] = _mm512_dpbf16_ps(acc[r], pair, as_pairs(broadcast_pair(line + 2 * r)));
    }
    const __m512 scale = _mm512_set1_ps(stop < p.rows ? 1.0f : p.scale);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) _mm512_mask_storeu_ps(to + r * p.columns, mask, _mm512_mul_ps(acc[r], scale));
}

template <typename T>
void sums_of(const FloatPair& p, const bf16* h, int64_t column, int64_t m, int64_t stop) {
    int64_t rank = 0;
    for (; rank + 16 <= p.rank; rank += 16) sums<16, T>(p, h, column, rank, m, stop);
    for (; rank + 4 <= p.rank; rank += 4) sums<4, T>(p, h, column, rank, m, stop);
    for (; rank < p.rank; ++rank) sums<1, T>(p, h, column, rank, m, stop);
}

// h with the values of two tokens side by side; zeros for the one after the last.
void pair_tokens(const FloatPair& p, bf16* to) {
    for (int64_t m = 0; m < p.rows; m += 2)
        for (int64_t r = 0; r < p.rank; r += LANES) {
            const __mmask16 mask = lanes(p.rank - r);
            const bf16* from = p.h + m * p.rank + r;
            const __m512i first = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
            const __m512i second =
                m + 1 < p.rows ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from + p.rank)) : _mm512_setzero_si512();
            _mm512_mask_storeu_epi32(to + (m * p.rank + 2 * r), mask, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
        }
}

void pair_down(const FloatPair& p) {
    const int64_t pairs = ceil_div(p.columns, 2), blocks = ceil_div(p.rows, DOWN_ROWS);
    bf16* a = packed.at_least(ceil_div(p.rank, LANES) * pairs * 2 * LANES);
#pragma omp parallel num_threads(p.threads) if (p.threads > 1 && blocks > 1)
    {
        pack(p, {p.rank, p.a_rank_stride}, {p.columns, p.a_column_stride}, a);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block)
            for (int64_t rank = 0; rank < p.rank; rank += LANES)
                down_rows(p, a + rank * pairs * 2, block * DOWN_ROWS, rank, least(DOWN_ROWS, p.rows - block * DOWN_ROWS));
    }
}

void pair_up(const FloatPair& p) {
    const int64_t blocks = ceil_div(p.rows, UP_ROWS);
    bf16* a = packed.at_least(ceil_div(p.columns, LANES) * ceil_div(p.rank, 2) * 2 * LANES);
#pragma omp parallel num_threads(p.threads) if (p.threads > 1 && blocks > 1)
    {
        pack(p, {p.columns, p.a_column_stride}, {p.rank, p.a_rank_stride}, a);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block) {
            if ((block + 1) * UP_ROWS <= p.rows) {
                up<UP_ROWS>(p, a, block * UP_ROWS);
                continue;
            }
            for (int64_t row = block * UP_ROWS; row < p.rows; ++row) up<1>(p, a, row);
        }
    }
}

void pair_sums(const FloatPair& p) {
    bf16* h = packed.at_least(ceil_div(p.rows, 2) * 2 * p.rank);
    pair_tokens(p, h);
    const int64_t groups = ceil_div(p.columns, LANES), parts = least(p.threads, groups);  // a thread takes columns of its own
#pragma omp parallel for num_threads(parts) schedule(static) if (parts > 1)
    for (int64_t part = 0; part < parts; ++part)
        for (int64_t m = 0; m == 0 || m < p.rows; m += SUMMED_ROWS)
            for (int64_t group = part * groups / parts; group < (part + 1) * groups / parts; ++group) {
                const int64_t stop = least(p.rows, m + SUMMED_ROWS);
                p.x_type == 2 ? sums_of<bf16>(p, h, group * LANES, m, stop) : sums_of<int8_t>(p, h, group * LANES, m, stop);
            }
}

}  // namespace

namespace avx512bf16 {

void pair_down(const FloatPair& p) { intaglio::pair_down(p); }
void pair_up(const FloatPair& p) { intaglio::pair_up(p); }
void pair_sums(const FloatPair& p) { intaglio::pair_sums(p); }

}  // namespace avx512bf16

}  // namespace intaglio
