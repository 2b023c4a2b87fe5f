// Rounding of rows to INT8, for AVX-512: the same numbers as `rows_avx2.cpp`.

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "native/round_avx512.h"
#include "row_quantizer/native/rows.h"

namespace intaglio {
namespace {

constexpr int64_t SHORT = 512;    // columns of a short row
constexpr int64_t CHUNK = 32768;  // elements that one thread takes at a time where a group has many rows

template <typename T, bool F>
struct Quantizer {
    const Rows& q;
    int64_t samples, padded;
    Array<float> ordered;  // the factors, a padded row for each sample

    explicit Quantizer(const Rows& rows)
        : q(rows), samples(F ? q.samples : 1), padded((q.columns + BLOCK - 1) / BLOCK * BLOCK), ordered(F ? samples * padded : 0) {
        for (int64_t s = 0; F && s < samples; ++s) in_block_order<T>(q.factor + s * q.columns, q.columns, ordered.data + s * padded);
    }

    const T* row(int64_t g, int64_t r) const { return static_cast<const T*>(q.x) + g * q.x_group_stride + r * q.x_stride; }
    const float* factor(int64_t g) const { return ordered.data + (F ? g * samples / q.groups * padded : 0); }

    // R rows from `x` on, of group `g`, to codes from row `at` of all on, and the largest of R rows from `next` on.
    template <int R>
    void round(const T* x, const T* next, int64_t stride, int64_t g, const float* inverse, int64_t at, uint32_t* tops) const {
        round_rows<R, T, F>(x, next, stride, factor(g), inverse, q.columns, q.codes + at * q.columns, tops);
    }

    // Groups of a row each, of one sample: the first R, and R after R.
    template <int R>
    int64_t groups(int64_t g, int64_t stop) const {
        if (g + R > stop) return g;
        const int64_t stride = q.x_group_stride;
        float inverse[R];
        uint32_t tops[R];
        largest<R, T, F>(row(g, 0), stride, factor(g), q.columns, tops);
        for (bool more = true; more; g += R) {
            for (int r = 0; r < R; ++r) inverse[r] = inverse_of(tops[r], q.scale + g + r);
            more = g + 2 * R <= stop;
            round<R>(row(g, 0), more ? row(g + R, 0) : nullptr, stride, g, inverse, g, tops);
        }
        return g;
    }

    // A run of rows for every thread, four by four: short ones wait for the largest of few, wide ones would fill a near cache.
    void each_row() const {
        const int64_t rows = q.groups / samples, fours = (rows + 3) / 4, runs = std::max<int64_t>(1, std::min(q.threads, fours));
#pragma omp parallel for num_threads(q.threads) schedule(static) if (q.threads > 1)
        for (int64_t task = 0; task < samples * runs; ++task) {
            const int64_t first = task / runs * rows, run = task % runs;
            const int64_t from = first + fours * run / runs * 4, to = first + std::min(rows, fours * (run + 1) / runs * 4);
            groups<1>(q.columns <= SHORT ? groups<4>(from, to) : groups<2>(from, to), to);
        }
    }

    uint32_t largest_of(int64_t g, int64_t r, int64_t stop) const {
        uint32_t tops[2], top = 0;
        for (; r + 2 <= stop; r += 2) {
            largest<2, T, F>(row(g, r), q.x_stride, factor(g), q.columns, tops);
            top = std::max(top, std::max(tops[0], tops[1]));
        }
        if (r == stop) return top;
        largest<1, T, F>(row(g, r), q.x_stride, factor(g), q.columns, tops);
        return std::max(top, tops[0]);
    }

    void round_run(int64_t g, int64_t r, int64_t stop, float inverse) const {
        const float same[2] = {inverse, inverse};
        for (; r + 2 <= stop; r += 2) round<2>(row(g, r), nullptr, q.x_stride, g, same, g * q.rows + r, nullptr);
        if (r < stop) round<1>(row(g, r), nullptr, q.x_stride, g, same, g * q.rows + r, nullptr);
    }

    // Runs of rows are shared out among threads twice; a maximum does not depend on the order.
    void each_run() const {
        const int64_t run = std::max<int64_t>(1, CHUNK / std::max<int64_t>(1, q.columns));
        const int64_t runs = (q.rows + run - 1) / run;
        const Array<uint32_t> tops(q.groups * runs);
        const Array<float> inverse(q.groups);
#pragma omp parallel num_threads(q.threads) if (q.threads > 1)
        {
#pragma omp for schedule(static)
            for (int64_t task = 0; task < q.groups * runs; ++task) {
                const int64_t start = task % runs * run;
                tops[task] = largest_of(task / runs, start, std::min(start + run, q.rows));
            }
#pragma omp single
            for (int64_t g = 0; g < q.groups; ++g) {
                const uint32_t top = *std::max_element(tops.data + g * runs, tops.data + (g + 1) * runs);
                inverse[g] = inverse_of(top, q.scale + g);
            }
#pragma omp for schedule(static)
            for (int64_t task = 0; task < q.groups * runs; ++task) {
                const int64_t g = task / runs, start = task % runs * run;
                round_run(g, start, std::min(start + run, q.rows), inverse[g]);
            }
        }
    }

    void run() const {
        if (q.rows == 0)
            std::fill(q.scale, q.scale + q.groups, 1.0f);
        else if (q.rows == 1)
            each_row();
        else
            each_run();
    }
};

}  // namespace

namespace avx512 {

void quantize_rows(const Rows& q) {
    if (q.x_type == 1)
        q.factor ? Quantizer<float, true>(q).run() : Quantizer<float, false>(q).run();
    else
        q.factor ? Quantizer<bf16, true>(q).run() : Quantizer<bf16, false>(q).run();
}

}  // namespace avx512
}  // namespace intaglio
