// The row-wise kernels on exact heap buffers, odd sizes first, at every level: `make sanitize` builds this with
// AddressSanitizer and UndefinedBehaviorSanitizer. Values are compared in the Python tests; here only levels with each other.

#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "column_sums/native/sums.h"
#include "gated/native/gated.h"
#include "group_norm/native/group_norm.h"
#include "layer_norm/native/layer_norm.h"
#include "row_quantizer/native/rows.h"
#include "sanitize.h"

namespace {

// A block of its own, whose end the sanitizer guards.
template <typename T>
struct Exact {
    int64_t count;
    std::unique_ptr<T[]> data;
    explicit Exact(int64_t n) : count(n), data(new T[n > 0 ? n : 1]()) {}
    T* get() { return data.get(); }
    bool operator==(const Exact& other) const { return std::memcmp(data.get(), other.data.get(), count * sizeof(T)) == 0; }
};

template <typename T>
Exact<T> random_values(int64_t count) {
    Exact<T> values(count);
    for (int64_t i = 0; i < count; ++i) {
        const float v = static_cast<float>(random_below(2001) - 1000) / 300.0f;
        uint32_t bits;
        std::memcpy(&bits, &v, 4);
        if (sizeof(T) == 2) bits >>= 16;
        std::memcpy(values.get() + i, &bits, sizeof(T));
    }
    return values;
}

template <typename T>
bool rows_and_sums(int64_t groups, int64_t rows, int64_t columns) {
    const int64_t count = groups * rows * columns, type = sizeof(T) == 2 ? 2 : 1;
    auto x = random_values<T>(count);
    auto factor = random_values<float>(columns);
    bool same = true;
    for (int64_t variant = 0; variant < 2; ++variant) {
        std::vector<Exact<int8_t>> codes;
        std::vector<Exact<float>> scale, sums;
        for (uint64_t set : SETS) {
            if (!use(set)) continue;
            codes.emplace_back(count);
            scale.emplace_back(groups);
            sums.emplace_back(groups * columns);
            const Rows call{x.get(), type, columns, rows * columns, groups, rows, columns, variant & 1 ? factor.get() : nullptr,
                            1, codes.back().get(), scale.back().get(), 2};
            intaglio_quantize_rows(&call);
            const bool product = variant & 1;
            const ColumnSums sum{x.get(), type, columns, product ? codes.back().get() : nullptr, product ? scale.back().get() : nullptr,
                                 3, rows, groups, rows, columns, sums.back().get(), 2};
            intaglio_column_sums(&sum);
            same = same && codes.back() == codes[0] && scale.back() == scale[0] && sums.back() == sums[0];
        }
    }
    return same;
}

// Whether one thread and two give the same; `x` as floats and as codes.
template <typename T>
bool norms_and_gates(int64_t samples, int64_t rows, int64_t channels, int64_t groups) {
    const int64_t count = samples * rows * channels, type = sizeof(T) == 2 ? 2 : 1;
    auto x = random_values<T>(count), grad = random_values<T>(count), wide = random_values<T>(2 * count);
    auto codes = random_values<float>(count);  // any bytes
    auto weight = random_values<float>(channels), bias = random_values<float>(channels);
    auto scale = random_values<float>(2 * samples * rows);
    std::vector<Exact<T>> results;
    const auto result = [&](int64_t size) { return results.emplace_back(size).get(); };
    bool same = true;
    for (int64_t variant = 0; variant < 4; ++variant) {
        const float* scales = variant & 1 ? scale.get() : nullptr;
        const void* saved = variant & 1 ? static_cast<const void*>(codes.get()) : x.get();
        const void* saved_wide = variant & 1 ? static_cast<const void*>(wide.get()) : wide.get();
        results.clear();
        for (int64_t threads = 1; threads < 3; ++threads) {
            Exact<float> mean(samples * rows), rstd(samples * rows), grad_weight(channels), grad_bias(channels);
            Exact<float> group_mean(samples * groups), group_rstd(samples * groups);
            Exact<int8_t> made(count), made_wide(2 * count);
            Exact<float> made_scale(2 * samples * rows);
            int8_t* to_codes = variant & 1 ? made.get() : nullptr;
            const GroupNorm group{x.get(), type, weight.get(), bias.get(), 1, samples, rows, channels, groups, 1e-5, variant >> 1,
                                  result(count), group_mean.get(), group_rstd.get(), to_codes, made_scale.get(), threads};
            intaglio_group_norm(&group);
            const GroupNormGrad group_grad{grad.get(), saved, type, scales, weight.get(), bias.get(), 1, group_mean.get(), group_rstd.get(),
                                           samples, rows, channels, groups, variant >> 1, result(count), grad_weight.get(),
                                           grad_bias.get(), threads};
            intaglio_group_norm_grad(&group_grad);
            const LayerNorm layer{x.get(), type, variant >> 1 ? weight.get() : nullptr, nullptr, 1, samples * rows, channels, 1e-5,
                                  result(count), mean.get(), rstd.get(), to_codes, made_scale.get(), threads};
            intaglio_layer_norm(&layer);
            const LayerNormGrad layer_grad{grad.get(), saved, type, scales, weight.get(), 1, mean.get(), rstd.get(), samples * rows,
                                           channels, result(count), threads};
            intaglio_layer_norm_grad(&layer_grad);
            for (int64_t function = 0; function < 3; ++function)
                for (int64_t gated = 0; gated < 2; ++gated) {
                    const Gated gate{gated ? wide.get() : x.get(), type, samples * rows, channels, function, gated, result(count),
                                     variant & 1 ? made_wide.get() : nullptr, made_scale.get(), threads};
                    intaglio_gated(&gate);
                    const GatedGrad gate_grad{grad.get(), gated ? saved_wide : saved, type, scales, samples * rows, channels, function,
                                              gated, result((1 + gated) * count), threads};
                    intaglio_gated_grad(&gate_grad);
                }
        }
        for (size_t i = 0; i < results.size() / 2; ++i) same = same && results[i] == results[i + results.size() / 2];
    }
    return same;
}

}  // namespace

int main() {
    int wrong = 0, done = 0;
    for (uint64_t set : {intaglio::AVX2, intaglio::AVX512, intaglio::AVX512_BF16}) {
        if (!use(set)) continue;
        for (int64_t groups : {1, 3})
            for (int64_t width : {1, 7, 22, 43})
                for (int64_t rows : {1, 5, 67}) {
                    wrong += !norms_and_gates<float>(2, rows, groups * width, groups);
                    wrong += !norms_and_gates<uint16_t>(2, rows, groups * width, groups);
                    done += 2;
                }
    }
    for (int64_t columns : {0, 1, 7, 31, 64, 65, 127, 257, 1031})
        for (int64_t rows : {1, 5, 67})
            for (int64_t groups : {3, 11}) {
                wrong += !rows_and_sums<float>(groups, rows, columns);
                wrong += !rows_and_sums<uint16_t>(groups, rows, columns);
                done += 2;
            }
    std::printf("rows: %d wrong of %d\n", wrong, done);
    return wrong != 0;
}
