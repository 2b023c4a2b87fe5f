// x first^T, its requantization, and what that times second^T adds to a result: rows stay in the cache between the two.

#include <omp.h>


#include "low_rank/native/low_rank.h"
#include "native/panels_avx512.h"
#include "native/scales_avx512.h"

namespace intaglio {
namespace avx512 {
void low_rank(const LowRank& p);
void low_rank_bf16(const LowRank& p);
}  // namespace avx512
namespace {

constexpr int64_t BLOCK = 64;  // rows

struct Work {  // shared by the threads of a call
    const LowRank& p;
    Right first, second;
    int8_t *first_panels, *second_panels;
    double* rank_scale;  // (rank)
    float* scale;        // (groups), of the codes
    int64_t rows_per_group;
    bool bf16;  // whether bfloat16 is rounded by its instruction
};

void pack_part(const Right& w, int8_t* panels, int64_t part, int64_t parts) {
    const int64_t quads = w.quads();
    for (int64_t n = 0; n < w.panels(); ++n) {
        const int64_t from = part * quads / parts, to = (part + 1) * quads / parts;
        pack(w, n, from, to, panels + 64 * (n * quads + from));
    }
}

void first_product(const Work& w, int64_t row, int64_t rows) {
    const LowRank& p = w.p;
    const int64_t quads = w.first.quads();
    alignas(64) int32_t sums[BLOCK * PANEL];
    for (int64_t n = 0; n < w.first.panels(); ++n) {
        const int8_t* panel = w.first_panels + 64 * n * quads;
        const auto* x = reinterpret_cast<const uint8_t*>(p.x + row * p.x_stride);
        tiles<true>(x, p.x_stride, rows, p.columns, panel, start_of(panel, quads), sums, PANEL);
        const int64_t width = std::min(PANEL, p.rank - n * PANEL);
        for (int64_t r = 0; r < rows; ++r)
            std::memcpy(p.h + (row + r) * p.rank + n * PANEL, sums + r * PANEL, width * sizeof(int32_t));
    }
}

void requantize(const Work& w, int64_t group) {
    const LowRank& p = w.p;
    const int64_t start = group * w.rows_per_group, stop = start + w.rows_per_group;
    const __m512d row_scale = _mm512_set1_pd(static_cast<double>(p.row_scale[group]));
    const auto real = [&](int64_t r, int64_t j, __mmask8 mask) {
        const __m512d h = _mm512_cvtepi32_pd(_mm256_maskz_loadu_epi32(mask, p.h + r * p.rank + j));
        return _mm512_mul_pd(h, _mm512_mul_pd(row_scale, _mm512_maskz_loadu_pd(mask, w.rank_scale + j)));
    };
    __m512i top = _mm512_setzero_si512();
    for (int64_t r = start; r < stop; ++r)
        for (int64_t j = 0; j < p.rank; j += 8) top = _mm512_max_epi64(top, magnitude8(real(r, j, first8(p.rank - j))));
    const auto largest = from_bits<double>(_mm512_reduce_max_epi64(top));
    const double scale = scale_for(largest, p.max_code, p.power_of_two, 0.0);
    w.scale[group] = static_cast<float>(scale);
    if (std::isnan(scale)) {
        std::memset(p.codes + start * p.rank, 0, w.rows_per_group * p.rank);
        return;
    }
    const __m512d divisor = _mm512_set1_pd(scale);
    const __m256i max_code = _mm256_set1_epi32(static_cast<int32_t>(p.max_code));
    for (int64_t r = start; r < stop; ++r)
        for (int64_t j = 0; j < p.rank; j += 8) {
            const __mmask8 mask = first8(p.rank - j);
            const __m256i codes = codes8<false>(_mm512_div_pd(real(r, j, mask), divisor), max_code, 0, 0);
            store8(p.codes + r * p.rank + j, mask, _mm256_cvtepi32_epi8(codes));
        }
}

// WHOLE: of all sixteen lanes; masked stores of 16-bit lanes are slow.
template <bool WHOLE>
inline __m512 load_out(const float* p, __mmask16 mask) {
    return WHOLE ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(mask, p);
}
template <bool WHOLE>
inline __m512 load_out(const uint16_t* p, __mmask16 mask) {
    const __m256i half = WHOLE ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)) : _mm256_maskz_loadu_epi16(mask, p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
template <bool WHOLE, bool NATIVE>
inline void store_out(float* p, __mmask16 mask, __m512 v) {
    WHOLE ? _mm512_storeu_ps(p, v) : _mm512_mask_storeu_ps(p, mask, v);
}

// In assembly, so that it inlines into code for machines without the instruction, where it is not reached.
inline __m256i to_bfloat16_native(__m512 v) {
    __m256i rounded;
    __asm__("vcvtneps2bf16 %1, %0" : "=v"(rounded) : "v"(v));
    return rounded;
}
inline __m256i to_bfloat16(__m512 v) {  // to nearest even; NaN stays NaN
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i high = _mm512_mask_mov_epi32(_mm512_srli_epi32(rounded, 16), _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q),
        _mm512_set1_epi32(0x7fc0));
    return _mm512_cvtepi32_epi16(high);
}
template <bool WHOLE, bool NATIVE>
inline void store_out(uint16_t* p, __mmask16 mask, __m512 v) {
    const __m256i half = NATIVE ? to_bfloat16_native(v) : to_bfloat16(v);
    if (WHOLE)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half);
    else
        _mm256_mask_storeu_epi16(p, mask, half);
}

// Four codes of a row, made unsigned. The last of a row may be fewer.
inline __m512i quad(const int8_t* codes, int64_t count) {
    int32_t v = 0;
    std::memcpy(&v, codes, count);
    return _mm512_xor_si512(_mm512_set1_epi32(v), _mm512_set1_epi32(static_cast<int32_t>(0x80808080u)));
}

// PANELS panels from `n` on; QUADS: those of a rank that is a multiple of 4, 0 for any rank.
template <int QUADS, int PANELS, bool WHOLE, bool NATIVE, typename T>
__attribute__((noinline)) void add_panels(const Work& w, int64_t row, int64_t rows, int64_t n) {
    const LowRank& p = w.p;
    const int64_t quads = QUADS ? QUADS : w.second.quads(), column = n * PANEL;
    const __mmask16 mask = WHOLE ? 0xffff : first16(p.out_columns - column);
    const int8_t* panel = w.second_panels + 64 * n * quads;
    __m512i start[PANELS], b[PANELS][QUADS ? QUADS : 1];
    __m512 column_scale[PANELS];
#pragma GCC unroll 2
    for (int i = 0; i < PANELS; ++i) {
        start[i] = start_of(panel + 64 * i * quads, quads);
        column_scale[i] = p.column_scale ? _mm512_maskz_loadu_ps(mask, p.column_scale + column + i * PANEL) : _mm512_set1_ps(1.0f);
#pragma GCC unroll 8
        for (int q = 0; q < QUADS; ++q) b[i][q] = _mm512_load_si512(panel + 64 * (i * quads + q));
    }
    for (int64_t r = row; r < row + rows; ++r) {
        const int8_t* codes = p.codes + r * p.rank;
        __m512i sums[PANELS];
#pragma GCC unroll 2
        for (int i = 0; i < PANELS; ++i) sums[i] = start[i];
#pragma GCC unroll 8
        for (int q = 0; q < QUADS; ++q) {
            const __m512i v = quad(codes + 4 * q, 4);
#pragma GCC unroll 2
            for (int i = 0; i < PANELS; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], v, b[i][q]);
        }
        if (!QUADS)
            for (int64_t q = 0; q < quads; ++q) {
                const __m512i v = quad(codes + 4 * q, std::min<int64_t>(4, p.rank - 4 * q));
#pragma GCC unroll 2
                for (int i = 0; i < PANELS; ++i)
                    sums[i] = _mm512_dpbusd_epi32(sums[i], v, _mm512_load_si512(panel + 64 * (i * quads + q)));
            }
        const __m512 scale = _mm512_set1_ps(w.scale[w.rows_per_group == 1 ? r : r / w.rows_per_group]);
        T* out = static_cast<T*>(p.out) + r * p.out_stride + column;
#pragma GCC unroll 2
        for (int i = 0; i < PANELS; ++i) {
            const __m512 update = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums[i]), scale), column_scale[i]);
            store_out<WHOLE, NATIVE>(out + i * PANEL, mask, _mm512_add_ps(load_out<WHOLE>(out + i * PANEL, mask), update));
        }
    }
}

template <int QUADS, bool NATIVE, typename T>
void add_all(const Work& w, int64_t row, int64_t rows) {
    const int64_t whole = w.p.out_columns / PANEL;
    int64_t n = 0;
    for (; n + 2 <= whole; n += 2) add_panels<QUADS, 2, true, NATIVE, T>(w, row, rows, n);
    if (n < whole) add_panels<QUADS, 1, true, NATIVE, T>(w, row, rows, n);
    if (w.p.out_columns % PANEL) add_panels<QUADS, 1, false, NATIVE, T>(w, row, rows, whole);
}

template <bool NATIVE, typename T>
void add(const Work& w, int64_t row, int64_t rows) {
    switch (w.p.rank) {
        case 4: return add_all<1, NATIVE, T>(w, row, rows);
        case 8: return add_all<2, NATIVE, T>(w, row, rows);
        case 16: return add_all<4, NATIVE, T>(w, row, rows);
        case 32: return add_all<8, NATIVE, T>(w, row, rows);
        default: return add_all<0, NATIVE, T>(w, row, rows);
    }
}

void add_update(const Work& w, int64_t row, int64_t rows) {
    if (w.p.out_type == 1) return add<false, float>(w, row, rows);
    w.bf16 ? add<true, uint16_t>(w, row, rows) : add<false, uint16_t>(w, row, rows);
}

void run(const Work& w) {
    const LowRank& p = w.p;
    const bool by_row = p.second && w.rows_per_group == 1;
    const int64_t blocks = (p.rows + BLOCK - 1) / BLOCK;
#pragma omp parallel num_threads(p.threads) if (p.threads > 1)
    {
        const int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
        pack_part(w.first, w.first_panels, part, parts);
        if (p.second) pack_part(w.second, w.second_panels, part, parts);
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t row = block * BLOCK, rows = std::min(BLOCK, p.rows - row);
            first_product(w, row, rows);
            if (!by_row) continue;
            for (int64_t r = row; r < row + rows; ++r) requantize(w, r);
            add_update(w, row, rows);
        }
        if (p.second && !by_row) {
#pragma omp for schedule(static)
            for (int64_t g = 0; g < p.groups; ++g) requantize(w, g);
#pragma omp for schedule(static)
            for (int64_t block = 0; block < blocks; ++block)
                add_update(w, block * BLOCK, std::min(BLOCK, p.rows - block * BLOCK));
        }
    }
}

void low_rank(const LowRank& p, bool bf16) {
    static thread_local Scratch<int8_t> first_panels, second_panels;
    static thread_local Scratch<double> rank_scale;
    static thread_local Scratch<float> scale;
    if (!p.rows) return;
    const Right first{p.first, p.rank, p.columns, p.first_rank_stride, p.first_column_stride};
    const Right second{p.second, p.second ? p.out_columns : 0, p.rank, p.second_column_stride, p.second_rank_stride};
    double* factors = rank_scale.of(p.rank);
    if (p.second)
        for (int64_t j = 0; j < p.rank; ++j)
            factors[j] = static_cast<double>(p.first_scale[j]) * static_cast<double>(p.second_scale[j]);
    run({p, first, second, first_panels.of(64 * first.panels() * first.quads()),
        second_panels.of(64 * second.panels() * second.quads()), factors, scale.of(p.groups), p.second ? p.rows / p.groups : 1, bf16});
}

}  // namespace

void avx512::low_rank(const LowRank& p) { intaglio::low_rank(p, false); }
void avx512::low_rank_bf16(const LowRank& p) { intaglio::low_rank(p, true); }

}  // namespace intaglio
