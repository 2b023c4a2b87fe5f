// Sums over rows, for AVX2.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "column_sums/native/sums.h"
#include "native/round_avx2.h"

namespace intaglio {
namespace {

constexpr int64_t SUMMED_ROWS = 64;  // rows that are added in float32

template <typename A, typename B>
void sum_columns(const ColumnSums& s, int64_t sample, int64_t from, int64_t to) {
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

namespace avx2 {

void column_sums(const ColumnSums& s) {
    constexpr int64_t WIDTH = 256;
    const int64_t parts = (s.columns + WIDTH - 1) / WIDTH;
#pragma omp parallel for num_threads(s.threads) schedule(static) if (s.threads > 1)
    for (int64_t task = 0; task < s.samples * parts; ++task) {
        const int64_t from = task % parts * WIDTH, to = std::min(from + WIDTH, s.columns);
        const auto sum = s.b_type == 3 ? (s.a_type == 1 ? sum_columns<float, int8_t> : sum_columns<uint16_t, int8_t>)
                                       : (s.a_type == 1 ? sum_columns<float, float> : sum_columns<uint16_t, float>);
        sum(s, task / parts, from, to);
    }
}

}  // namespace avx2
}  // namespace intaglio
