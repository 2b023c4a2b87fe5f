// The pair's gradients: sums over tokens of codes by column times codes of the layer's input or gradient.

#include <omp.h>

#include <vector>

#include "low_rank/native/low_rank.h"
#include "native/panels_avx512.h"
#include "native/scales_avx512.h"

namespace intaglio {
namespace {

constexpr int64_t TOKENS = 1024;  // of one panel, which stays in the cache with those beside it
constexpr int64_t WIDTH = 4 * PANEL;
static_assert(TOKENS * 128LL * 128 < (1LL << 31), "sums of a panel fit int32");

// left_scale * right_scale of each row.
void scales_of(const TokenSums& p, int64_t from, int64_t to, double* row_scale) {
    if (from == to) return;
    const int64_t count = p.rows / p.groups;
    for (int64_t g = from / count; g * count < to; ++g) {
        const double scale = static_cast<double>(p.left_scale[g]) * static_cast<double>(p.right_scale[g]);
        std::fill(row_scale + std::max(from, g * count), row_scale + std::min(to, (g + 1) * count), scale);
    }
}

// h * (row_scale * rank_scale) of ranks [j, j + 8).
inline __m512d real(const TokenSums& p, const double* row_scale, __m512d rank_scale, int64_t row, int64_t j, __mmask8 mask) {
    const __m512d h = _mm512_cvtepi32_pd(_mm256_maskz_loadu_epi32(mask, p.h + row * p.rank + j));
    return _mm512_mul_pd(h, _mm512_mul_pd(_mm512_set1_pd(row_scale[row]), rank_scale));
}

inline __m512d rank_scales(const TokenSums& p, int64_t j, __mmask8 mask) {
    return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(mask, p.rank_scale + j));
}

void largest_of(const TokenSums& p, const double* row_scale, int64_t from, int64_t to, int64_t* top) {
    for (int64_t j = 0; j < p.rank; j += 8) {
        const __mmask8 mask = first8(p.rank - j);
        const __m512d rank_scale = rank_scales(p, j, mask);
        __m512i most = _mm512_setzero_si512();
        for (int64_t r = from; r < to; ++r)
            most = _mm512_max_epi64(most, magnitude8(real(p, row_scale, rank_scale, r, j, mask)));
        _mm512_mask_storeu_epi64(top + j, mask, most);
    }
}

// Codes by column, transposed: (rank, stride), offset by 128; a place after the last token holds 128, a code of 0.
template <bool S>
void round_rows(const TokenSums& p, const double* row_scale, const double* scale, int64_t from, int64_t to, uint8_t* codes, int64_t stride) {
    const __m256i max_code = _mm256_set1_epi32(static_cast<int32_t>(p.max_code));
    for (int64_t j = 0; j < p.rank; j += 8) {
        const __mmask8 mask = first8(p.rank - j);
        const __m512d divisor = _mm512_mask_loadu_pd(_mm512_set1_pd(1.0), mask, scale + j);
        const __m512d rank_scale = rank_scales(p, j, mask);
        const __mmask8 finite = _mm512_cmp_pd_mask(divisor, divisor, _CMP_ORD_Q);
        for (int64_t r = from; r < to; ++r) {
            const __m512d scaled = _mm512_maskz_div_pd(finite, real(p, row_scale, rank_scale, r, j, mask), divisor);
            const auto index = static_cast<uint32_t>(r * p.rank + j);
            const __m256i part = codes8<S>(scaled, max_code, index, static_cast<uint32_t>(p.seed));
            alignas(16) uint8_t line[16];
            _mm_store_si128(reinterpret_cast<__m128i*>(line),
                _mm_xor_si128(_mm256_cvtepi32_epi8(part), _mm_set1_epi8(static_cast<char>(0x80))));
            for (int64_t i = 0; i < std::min<int64_t>(8, p.rank - j); ++i) codes[(j + i) * stride + r] = line[i];
        }
    }
}

// Four panels of 64 whole columns, steps of whole quads. Interleaving stays within 16 bytes, so the panels share the
// columns out: lane 4 l + e of panel n holds column 16 l + 4 n + e (`column_in`).
void pack64(const int8_t* from, int64_t stride, int64_t quads, int8_t* to) {
    for (int64_t q = 0; q < quads; ++q, from += 4 * stride) {
        const __m512i a = _mm512_loadu_si512(from), b = _mm512_loadu_si512(from + stride);
        const __m512i c = _mm512_loadu_si512(from + 2 * stride), d = _mm512_loadu_si512(from + 3 * stride);
        const __m512i ab0 = _mm512_unpacklo_epi8(a, b), ab1 = _mm512_unpackhi_epi8(a, b);
        const __m512i cd0 = _mm512_unpacklo_epi8(c, d), cd1 = _mm512_unpackhi_epi8(c, d);
        _mm512_store_si512(to + 64 * q, _mm512_unpacklo_epi16(ab0, cd0));
        _mm512_store_si512(to + 64 * (TOKENS / 4 + q), _mm512_unpackhi_epi16(ab0, cd0));
        _mm512_store_si512(to + 64 * (2 * TOKENS / 4 + q), _mm512_unpacklo_epi16(ab1, cd1));
        _mm512_store_si512(to + 64 * (3 * TOKENS / 4 + q), _mm512_unpackhi_epi16(ab1, cd1));
    }
}

inline int64_t column_in(int64_t panel, int64_t lane) { return 16 * (lane / 4) + 4 * panel + lane % 4; }

// Columns [column, column + WIDTH) of the result.
void columns_of(const TokenSums& p, const double* scale, const uint8_t* codes, int64_t stride, int64_t column) {
    static thread_local Scratch<int8_t> panels;
    static thread_local Scratch<int32_t> sums;
    static thread_local Scratch<int64_t> totals;
    const int64_t width = std::min(WIDTH, p.columns - column);
    int8_t* packed = panels.of(WIDTH * TOKENS);
    int32_t* part = sums.of(p.rank * PANEL);
    int64_t* total = totals.of(p.rank * WIDTH);
    std::fill(total, total + p.rank * WIDTH, 0);
    for (int64_t token = 0; token < p.rows; token += TOKENS) {
        const int64_t count = std::min(TOKENS, p.rows - token), quads = (count + 3) / 4;
        const Right right{p.right + token * p.right_stride + column, width, count, 1, p.right_stride};
        const bool together = width == WIDTH && count % 4 == 0;
        if (together) pack64(right.codes, right.reduction_stride, quads, packed);
        for (int64_t n = 0; n < right.panels(); ++n) {
            int8_t* panel = packed + n * PANEL * TOKENS;
            if (!together) pack(right, n, 0, quads, panel);
            tiles<false>(codes + token, stride, p.rank, 4 * quads, panel, start_of(panel, quads), part, PANEL);
            for (int64_t j = 0; j < p.rank; ++j)
                for (int64_t c = 0; c < PANEL; ++c)
                    total[j * WIDTH + (together ? column_in(n, c) : n * PANEL + c)] += part[j * PANEL + c];
        }
    }
    double divisor[WIDTH];
    for (int64_t c = 0; c < WIDTH; ++c) divisor[c] = p.divisor && c < width ? p.divisor[column + c] : 1.0f;
    for (int64_t j = 0; j < p.rank; ++j) {
        float line[WIDTH];
        for (int64_t c = 0; c < WIDTH; ++c)
            line[c] = static_cast<float>(static_cast<double>(total[j * WIDTH + c]) * scale[j] / divisor[c] * p.multiplier);
        float* out = p.out + j * p.out_rank_stride + column * p.out_column_stride;
        for (int64_t c = 0; c < width; ++c) out[c * p.out_column_stride] = line[c];
    }
}

void run(const TokenSums& p, uint8_t* codes, int64_t stride, double* row_scale, int64_t* top, double* scale) {
    const int64_t blocks = (p.columns + WIDTH - 1) / WIDTH;
#pragma omp parallel num_threads(p.threads) if (p.threads > 1)
    {
        const int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
        const int64_t from = part * p.rows / parts, to = (part + 1) * p.rows / parts;
        std::vector<int64_t> own(p.rank, 0);
        scales_of(p, from, to, row_scale);
        largest_of(p, row_scale, from, to, own.data());
#pragma omp critical(intaglio_token_sums)
        for (int64_t j = 0; j < p.rank; ++j) top[j] = std::max(top[j], own[j]);
#pragma omp barrier
#pragma omp single
        for (int64_t j = 0; j < p.rank; ++j) {
            scale[j] = scale_for(from_bits<double>(top[j]), p.max_code, p.power_of_two, 0.0);
        }
        if (p.stochastic)
            round_rows<true>(p, row_scale, scale, from, to, codes, stride);
        else
            round_rows<false>(p, row_scale, scale, from, to, codes, stride);
#pragma omp barrier
#pragma omp for schedule(dynamic)
        for (int64_t block = 0; block < blocks; ++block) columns_of(p, scale, codes, stride, block * WIDTH);
    }
}

}  // namespace

namespace avx512 {

void token_sums(const TokenSums& p) {
    static thread_local Scratch<uint8_t> codes;
    static thread_local Scratch<double> row_scale;
    const int64_t stride = (p.rows + 3) / 4 * 4;
    uint8_t* all = codes.of(p.rank * stride);
    std::memset(all, 128, p.rank * stride);
    std::vector<int64_t> top(p.rank, 0);
    std::vector<double> scale(p.rank, 1.0);
    run(p, all, stride, row_scale.of(p.rows), top.data(), scale.data());
}

}  // namespace avx512
}  // namespace intaglio
