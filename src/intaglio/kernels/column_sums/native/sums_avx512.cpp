// Sums over rows, for AVX-512.

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "column_sums/native/sums.h"
#include "native/vectors_avx512.h"

namespace intaglio {
namespace {

constexpr int64_t SUMMED_ROWS = 64;  // rows that are added in float32

enum class Second { none, floats, codes };

constexpr int64_t FAR = 8192;  // elements: how long before they are read lines are asked for; a few rows make a line each

// part += the products of a few rows, added in order. `first_row` counts over all samples.
template <typename A, Second B>
inline void add_rows(const ColumnSums& s, int64_t first_row, int rows, float* part) {
    for (int64_t c = 0; c < s.columns; c += BLOCK) {
        const int64_t left = s.columns - c;
        __m512 sum[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) sum[i] = _mm512_loadu_ps(part + c + 16 * i);
        for (int r = 0; r < rows; ++r) {
            const int64_t row = first_row + r;
            const A* from = static_cast<const A*>(s.a) + row * s.a_stride + c;
            for (int line = 0; line < BLOCK; line += 64 / sizeof(A)) __builtin_prefetch(from + FAR + line, 0, 2);
            Block a = load_part(from, left);
            if (B != Second::none) {
                const A* kind = nullptr;
                Block b;
                if (B == Second::codes) {
                    const int8_t* codes = static_cast<const int8_t*>(s.b) + row * s.columns + c;
                    __builtin_prefetch(codes + FAR, 0, 2);
                    b = codes_block(kind, codes, first(left));
                } else
                    b = load_part(static_cast<const float*>(s.b) + row * s.columns + c, left);
                const __m512 scale = _mm512_set1_ps(s.scale ? s.scale[row / s.rows_per_scale] : 1.0f);
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) a.v[i] = _mm512_mul_ps(a.v[i], _mm512_mul_ps(b.v[i], scale));
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) sum[i] = _mm512_add_ps(sum[i], a.v[i]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) _mm512_storeu_ps(part + c + 16 * i, sum[i]);
    }
}

// A part for every 64 rows of every sample, whoever computes it; then the parts of a column in order.
template <typename A, Second B>
void sum_columns(const ColumnSums& s) {
    const int64_t padded = (s.columns + BLOCK - 1) / BLOCK * BLOCK, parts = (s.rows + SUMMED_ROWS - 1) / SUMMED_ROWS;
    const Array<float> part(s.samples * parts * padded);
#pragma omp parallel num_threads(s.threads) if (s.threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t task = 0; task < s.samples * parts; ++task) {
            const int64_t start = task / parts * s.rows, from = task % parts * SUMMED_ROWS;
            const int64_t to = std::min(from + SUMMED_ROWS, s.rows);
            for (int64_t r = from; r < to; r += 4)
                add_rows<A, B>(s, start + r, static_cast<int>(std::min<int64_t>(4, to - r)), part.data + task * padded);
        }
#pragma omp for schedule(static)
        for (int64_t task = 0; task < s.samples * padded / BLOCK; ++task) {
            const int64_t sample = task / (padded / BLOCK), c = task % (padded / BLOCK) * BLOCK;
            double total[BLOCK] = {};
            for (int64_t p = 0; p < parts; ++p)
                for (int64_t at = 0; at < BLOCK; ++at) total[at] += part[(sample * parts + p) * padded + c + at];
            for (int64_t at = 0; at < BLOCK; ++at) {
                const int64_t column = c + column_of<A>(at);
                if (column < s.columns) s.sums[sample * s.columns + column] = static_cast<float>(total[at]);
            }
        }
    }
}

template <typename A>
void sum_columns(const ColumnSums& s) {
    if (!s.b)
        sum_columns<A, Second::none>(s);
    else if (s.b_type == 3)
        sum_columns<A, Second::codes>(s);
    else if constexpr (sizeof(A) == 4)
        sum_columns<A, Second::floats>(s);
}

}  // namespace

namespace avx512 {

void column_sums(const ColumnSums& s) { s.a_type == 1 ? sum_columns<float>(s) : sum_columns<bf16>(s); }

}  // namespace avx512
}  // namespace intaglio
