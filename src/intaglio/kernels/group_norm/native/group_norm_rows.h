// Group norm over channels-last pictures, with SiLU behind it if asked.
//
// Rows are summed by channel, PART at a time in float32, and these parts in float64 in their order: the result does not
// depend on the number of threads.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "native/functions.h"
#include "group_norm/native/group_norm.h"

namespace intaglio {
namespace {

constexpr int64_t PART = 32;

// Two sums by channel, in block order: of every part of every sample, and of every sample.
struct Sums {
    const int64_t parts, padded;
    const Array<float> of_part;
    const Array<double> of_sample;

    Sums(int64_t samples, int64_t rows, int64_t channels)
        : parts((rows + PART - 1) / PART),
          padded((channels + BLOCK - 1) / BLOCK * BLOCK),
          of_part(samples * parts * 2 * padded),
          of_sample(samples * 2 * padded) {}

    float* part(int64_t task) const { return of_part.data + task * 2 * padded; }
    double* sample(int64_t s, int which) const { return of_sample.data + (s * 2 + which) * padded; }

    // One of the tasks of adding up the parts, of which there are `samples * tasks()`.
    int64_t tasks() const { return 2 * padded / BLOCK; }
    void add_up(int64_t task) const {
        const int64_t s = task / tasks(), at = task % tasks() * BLOCK;
        double* to = of_sample.data + s * 2 * padded + at;
        for (int64_t p = 0; p < parts; ++p) {
            const float* from = part(s * parts + p) + at;
            for (int64_t i = 0; i < BLOCK; ++i) to[i] += from[i];
        }
    }
};

// Where a channel's value lies in block order.
template <typename T>
int64_t element_of(int64_t channel) {
    if (sizeof(T) == 4) return channel;
    const int64_t in_pair = channel % (2 * LANES);
    return channel - in_pair + LANES * (in_pair % 2) + in_pair / 2;
}

// Sums of x - shift and of its square, where the shift is the sample's first row: what is squared is as small as the
// variation, whatever the mean.
template <typename T>
void sum_part(const T* x, const T* shift, int64_t rows, int64_t channels, float* sum, float* squares) {
    for (int64_t c = 0; c < channels; c += BLOCK) {
        const Block k = load_part(shift + c, channels - c);
        Block s = {}, q = {};
        for (int64_t r = 0; r < rows; ++r) {
            const Block v = load_part(x + r * channels + c, channels - c);
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; ++i) {
                const Vec d = sub(v.v[i], k.v[i]);
                s.v[i] = add(s.v[i], d);
                q.v[i] = fmadd(d, d, q.v[i]);
            }
        }
        store_part(sum + c, s, BLOCK);
        store_part(squares + c, q, BLOCK);
    }
}

// Mean and variance of a group from its channels': exact but for float64. In two walks, each channel's mean made twice.
template <typename T>
void moments(const GroupNorm& n, const Sums& sums, int64_t s, int64_t group) {
    const int64_t width = n.channels / n.groups, first_channel = group * width;
    const T* first_row = static_cast<const T*>(n.x) + s * n.rows * n.channels;
    const double rows = static_cast<double>(n.rows), *sum = sums.sample(s, 0), *square = sums.sample(s, 1);
    const auto mean_of = [&](int64_t c) {
        return element(first_row, sizeof(T) == 4 ? 1 : 2, c, 0.0f) + sum[element_of<T>(c)] / rows;
    };
    double mean = 0, squares = 0;
    for (int64_t c = first_channel; c < first_channel + width; ++c) mean += mean_of(c);
    mean /= static_cast<double>(width);
    for (int64_t c = first_channel; c < first_channel + width; ++c) {
        const double own = sum[element_of<T>(c)], distance = mean_of(c) - mean;
        squares += square[element_of<T>(c)] - own * own / rows + rows * distance * distance;
    }
    const double variance = std::max(squares, 0.0) / (rows * static_cast<double>(width));
    n.mean[s * n.groups + group] = static_cast<float>(mean);
    n.rstd[s * n.groups + group] = static_cast<float>(1.0 / std::sqrt(variance + n.eps));
}

// What each channel of a sample is computed with, in block order: z = (x - mean) * slope + bias.
struct Channels {
    const int64_t padded;
    const Array<float> values;  // (samples, 3, padded)

    Channels(int64_t samples, int64_t channels) : padded((channels + BLOCK - 1) / BLOCK * BLOCK), values(samples * 3 * padded) {}

    template <typename T, typename Norm>
    void fill(const Norm& n, int64_t s) const {
        const int64_t width = n.channels / n.groups;
        float *mean = values.data + s * 3 * padded, *slope = mean + padded, *bias = slope + padded;
        for (int64_t g = 0; g < n.groups; ++g) {
            const float m = n.mean[s * n.groups + g], rstd = n.rstd[s * n.groups + g];
            for (int64_t c = g * width; c < (g + 1) * width; ++c) {
                const int64_t e = element_of<T>(c);
                mean[e] = m;
                slope[e] = rstd * element(n.weight, n.affine_type, c, 1.0f);
                bias[e] = element(n.bias, n.affine_type, c, 0.0f);
            }
        }
    }

    struct Sample {
        const float *mean, *slope, *bias;

        // z of a vector; `distance` is x - mean.
        Vec z(Vec distance, int64_t c, int i) const { return fmadd(distance, at(slope, c, i), at(bias, c, i)); }
    };

    Sample sample(int64_t s) const {
        const float* mean = values.data + s * 3 * padded;
        return {mean, mean + padded, mean + 2 * padded};
    }
};

template <typename T, bool Silu>
void normalize_row(const T* x, const Channels::Sample& p, int64_t channels, T* y) {
    for (int64_t c = 0; c < channels; c += BLOCK) {
        Block v = load_part(x + c, channels - c);
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; ++i) {
            v.v[i] = p.z(sub(v.v[i], at(p.mean, c, i)), c, i);
            if (Silu) v.v[i] = mul(v.v[i], sigmoid<sizeof(T) == 2>(v.v[i]));
        }
        store_part(y + c, v, channels - c);
    }
}

template <typename T>
void group_norm_forward(const GroupNorm& n) {
    const Sums sums(n.samples, n.rows, n.channels);
    const Channels channels(n.samples, n.channels);
    const auto* x = static_cast<const T*>(n.x);
    auto* y = static_cast<T*>(n.y);
    const auto apply = n.silu ? normalize_row<T, true> : normalize_row<T, false>;
#pragma omp parallel num_threads(n.threads) if (n.threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t task = 0; task < n.samples * sums.parts; ++task) {
            const int64_t s = task / sums.parts, row = task % sums.parts * PART;
            const T* start = x + s * n.rows * n.channels;
            float* to = sums.part(task);
            sum_part<T>(start + row * n.channels, start, std::min(PART, n.rows - row), n.channels, to, to + sums.padded);
        }
#pragma omp for schedule(static)
        for (int64_t task = 0; task < n.samples * sums.tasks(); ++task) sums.add_up(task);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < n.samples * n.groups; ++task) moments<T>(n, sums, task / n.groups, task % n.groups);
#pragma omp for schedule(static)
        for (int64_t s = 0; s < n.samples; ++s) channels.fill<T>(n, s);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < n.samples * n.rows; ++row) {
            const int64_t start = row * n.channels;
            apply(x + start, channels.sample(row / n.rows), n.channels, y + start);
            if (n.codes) n.scale[row] = quantize_row(x + start, n.channels, n.codes + start);
        }
    }
}

// x of one row and the gradient of z, of 64 channels.
template <typename T, bool Codes>
struct Gradient {
    const GroupNormGrad& n;

    // The lines of a row that is read later: codes lie in memory since the forward pass.
    void ask_for(int64_t row, int64_t c) const {
        const int64_t start = row * n.channels + c, size = Codes ? 1 : sizeof(T);
        for (int64_t line = 0; line < BLOCK * size; line += 64)
            __builtin_prefetch(static_cast<const char*>(n.x) + start * size + line, 0, 2);
        for (int64_t line = 0; line < BLOCK; line += 64 / sizeof(T)) __builtin_prefetch(static_cast<const T*>(n.grad) + start + line, 0, 2);
    }

    Block distance(int64_t row, int64_t c, const Channels::Sample& p) const {
        const int64_t left = n.channels - c, start = row * n.channels + c;
        const T* kind = nullptr;
        Block x = Codes ? codes_part(kind, static_cast<const int8_t*>(n.x) + start, left)
                        : load_part(static_cast<const T*>(n.x) + start, left);
        const Vec scale = constant(Codes ? n.scale[row] : 1.0f);
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; ++i)
            x.v[i] = Codes ? fmsub(x.v[i], scale, at(p.mean, c, i)) : sub(x.v[i], at(p.mean, c, i));
        return x;
    }

    Block grad_z(int64_t row, int64_t c, const Channels::Sample& p, const Block& distance) const {
        Block g = load_part(static_cast<const T*>(n.grad) + row * n.channels + c, n.channels - c);
        if (!n.silu) return g;
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; ++i) {  // d (z s) / dz = s (1 + z (1 - s)) = s + z s (1 - s)
            const Vec z = p.z(distance.v[i], c, i), s = sigmoid<sizeof(T) == 2>(z);
            const Vec slope = fmadd(mul(z, s), sub(constant(1.0f), s), s);
            g.v[i] = mul(g.v[i], slope);
        }
        return g;
    }

    // Sums by channel of dz and of dz (x - mean).
    void sum_part(int64_t first_row, int64_t rows, const Channels::Sample& p, float* sum, float* products) const {
        for (int64_t c = 0; c < n.channels; c += BLOCK) {
            Block s = {}, q = {};
            for (int64_t row = first_row; row < first_row + rows; ++row) {
                ask_for(row + PART, c);
                const Block d = distance(row, c, p), g = grad_z(row, c, p, d);
#pragma GCC unroll 4
                for (int i = 0; i < VECTORS; ++i) {
                    s.v[i] = add(s.v[i], g.v[i]);
                    q.v[i] = fmadd(g.v[i], d.v[i], q.v[i]);
                }
            }
            store_part(sum + c, s, BLOCK);
            store_part(products + c, q, BLOCK);
        }
    }

    // dx = slope dz - level - (x - mean) tilt, where level and tilt belong to the group.
    void apply(int64_t row, const Channels::Sample& p, const float* level, const float* tilt) const {
        for (int64_t c = 0; c < n.channels; c += BLOCK) {
            const Block d = distance(row, c, p);
            Block g = grad_z(row, c, p, d);
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; ++i) {
                const Vec taken = fmadd(d.v[i], at(tilt, c, i), at(level, c, i));
                g.v[i] = fmsub(g.v[i], at(p.slope, c, i), taken);
            }
            store_part(static_cast<T*>(n.grad_x) + row * n.channels + c, g, n.channels - c);
        }
    }
};

// From the sums of a sample's group to its level and tilt: rstd times the means of w dz and of w dz xhat, the latter
// once more times rstd.
template <typename T>
void level_and_tilt(const GroupNormGrad& n, const Sums& sums, int64_t s, int64_t group, float* level, float* tilt) {
    const int64_t width = n.channels / n.groups, from = group * width;
    const double rstd = n.rstd[s * n.groups + group], count = static_cast<double>(width) * static_cast<double>(n.rows);
    double first = 0, second = 0;
    for (int64_t c = from; c < from + width; ++c) {
        const double w = element(n.weight, n.affine_type, c, 1.0f);
        first += w * sums.sample(s, 0)[element_of<T>(c)];
        second += w * sums.sample(s, 1)[element_of<T>(c)];
    }
    const auto the_level = static_cast<float>(rstd * first / count);
    const auto the_tilt = static_cast<float>(rstd * rstd * rstd * second / count);
    for (int64_t c = from; c < from + width; ++c) {
        level[element_of<T>(c)] = the_level;
        tilt[element_of<T>(c)] = the_tilt;
    }
}

template <typename T>
void grad_of_channel(const GroupNormGrad& n, const Sums& sums, int64_t c) {
    double weight = 0, bias = 0;
    for (int64_t s = 0; s < n.samples; ++s) {
        bias += sums.sample(s, 0)[element_of<T>(c)];
        weight += sums.sample(s, 1)[element_of<T>(c)] * n.rstd[s * n.groups + c / (n.channels / n.groups)];
    }
    n.grad_weight[c] = static_cast<float>(weight);
    n.grad_bias[c] = static_cast<float>(bias);
}

template <typename T, bool Codes>
void group_norm_backward(const GroupNormGrad& n) {
    const Sums sums(n.samples, n.rows, n.channels);
    const Channels channels(n.samples, n.channels);
    const Array<float> level(n.samples * sums.padded), tilt(n.samples * sums.padded);
    const Gradient<T, Codes> gradient{n};
#pragma omp parallel num_threads(n.threads) if (n.threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t s = 0; s < n.samples; ++s) channels.fill<T>(n, s);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < n.samples * sums.parts; ++task) {
            const int64_t s = task / sums.parts, row = task % sums.parts * PART;
            float* to = sums.part(task);
            gradient.sum_part(s * n.rows + row, std::min(PART, n.rows - row), channels.sample(s), to, to + sums.padded);
        }
#pragma omp for schedule(static)
        for (int64_t task = 0; task < n.samples * sums.tasks(); ++task) sums.add_up(task);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < n.samples * n.groups; ++task) {
            const int64_t s = task / n.groups, start = s * sums.padded;
            level_and_tilt<T>(n, sums, s, task % n.groups, level.data + start, tilt.data + start);
        }
        if (n.grad_weight) {
#pragma omp for schedule(static) nowait
            for (int64_t c = 0; c < n.channels; ++c) grad_of_channel<T>(n, sums, c);
        }
#pragma omp for schedule(static)
        for (int64_t row = 0; row < n.samples * n.rows; ++row) {
            const int64_t s = row / n.rows, start = s * sums.padded;
            gradient.apply(row, channels.sample(s), level.data + start, tilt.data + start);
        }
    }
}

void group_norm(const GroupNorm& n) { n.type == 1 ? group_norm_forward<float>(n) : group_norm_forward<bf16>(n); }

void group_norm_grad(const GroupNormGrad& n) {
    if (n.type == 1)
        n.scale ? group_norm_backward<float, true>(n) : group_norm_backward<float, false>(n);
    else
        n.scale ? group_norm_backward<bf16, true>(n) : group_norm_backward<bf16, false>(n);
}

}  // namespace
}  // namespace intaglio
