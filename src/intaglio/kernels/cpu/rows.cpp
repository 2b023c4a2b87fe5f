// Rounding of rows to INT8, and sums over rows, for AVX2; `rows_avx512.cpp` has them for AVX-512.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "level.h"
#include "round_avx2.h"

namespace {

using namespace intaglio;

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
