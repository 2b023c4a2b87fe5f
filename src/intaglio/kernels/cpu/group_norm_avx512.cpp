// Group norm over channels-last pictures, with SiLU behind it if asked, for AVX-512.
//
// Rows are summed by channel, PART at a time in float32, and these parts in float64 in their order: the result does not
// depend on the number of threads.

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "functions_avx512.h"
#include "norms.h"
#include "vectors_avx512.h"

namespace intaglio {
namespace {

constexpr int64_t PART = 32;

// Two sums by channel for every part of every sample, in block order.
struct Sums {
    int64_t parts, padded;
    std::vector<float> values;

    Sums(int64_t samples, int64_t rows, int64_t channels)
        : parts((rows + PART - 1) / PART), padded((channels + BLOCK - 1) / BLOCK * BLOCK), values(samples * parts * 2 * padded) {}

    float* at(int64_t task, int which) { return values.data() + (task * 2 + which) * padded; }

    // The total of one element of a block.
    double total(int64_t sample, int which, int64_t element) {
        double sum = 0;
        for (int64_t p = 0; p < parts; ++p) sum += at(sample * parts + p, which)[element];
        return sum;
    }
};

// Where a channel's value lies in block order.
template <typename T>
int64_t element_of(int64_t channel) {
    const int64_t in_block = channel % BLOCK, start = channel - in_block;
    if (sizeof(T) == 4) return channel;
    return start + 32 * (in_block / 32) + 16 * (in_block % 2) + in_block % 32 / 2;
}

inline __m512 at(const float* p, int64_t c, int i) { return _mm512_loadu_ps(p + c + 16 * i); }

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
            for (int i = 0; i < 4; ++i) {
                const __m512 d = _mm512_sub_ps(v.v[i], k.v[i]);
                s.v[i] = _mm512_add_ps(s.v[i], d);
                q.v[i] = _mm512_fmadd_ps(d, d, q.v[i]);
            }
        }
        store_part(sum + c, s, BLOCK);
        store_part(squares + c, q, BLOCK);
    }
}

inline double value(const float* p) { return *p; }
inline double value(const bf16* p) {
    const uint32_t bits = static_cast<uint32_t>(*p) << 16;
    float v;
    std::memcpy(&v, &bits, 4);
    return v;
}

// Mean and variance of a group from its channels': exact but for float64.
template <typename T>
void moments(const GroupNorm& n, Sums& sums, int64_t sample, int64_t group) {
    const int64_t width = n.channels / n.groups;
    const T* first_row = static_cast<const T*>(n.x) + sample * n.rows * n.channels;
    const auto rows = static_cast<double>(n.rows);
    double mean = 0, squares = 0;
    std::vector<double> means(width);
    for (int64_t j = 0; j < width; ++j) {
        const int64_t c = group * width + j, e = element_of<T>(c);
        const double s = sums.total(sample, 0, e);
        means[j] = value(first_row + c) + s / rows;
        mean += means[j];
        squares += sums.total(sample, 1, e) - s * s / rows;
    }
    mean /= static_cast<double>(width);
    for (const double m : means) squares += rows * (m - mean) * (m - mean);
    const double variance = std::max(squares, 0.0) / (rows * static_cast<double>(width));
    n.mean[sample * n.groups + group] = static_cast<float>(mean);
    n.rstd[sample * n.groups + group] = static_cast<float>(1.0 / std::sqrt(variance + n.eps));
}

// What each channel of a sample is computed with, in block order: z = (x - mean) * slope + bias.
struct Channels {
    std::vector<float> mean, slope, bias;

    template <typename T>
    void fill(int64_t channels, int64_t groups, const float* means, const float* rstds, const float* weight, const float* b) {
        const int64_t padded = (channels + BLOCK - 1) / BLOCK * BLOCK, width = channels / groups;
        for (auto* v : {&mean, &slope, &bias}) v->assign(padded, 0.0f);
        for (int64_t c = 0; c < channels; ++c) {
            const int64_t e = element_of<T>(c);
            mean[e] = means[c / width];
            slope[e] = rstds[c / width] * (weight ? weight[c] : 1.0f);
            bias[e] = b ? b[c] : 0.0f;
        }
    }

    // z of a vector; `distance` is x - mean.
    __m512 z(__m512 distance, int64_t c, int i) const {
        return _mm512_fmadd_ps(distance, at(slope.data(), c, i), at(bias.data(), c, i));
    }
};

template <typename T, bool Silu>
void normalize(const T* x, const Channels& p, int64_t rows, int64_t channels, T* y) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < channels; c += BLOCK) {
            Block v = load_part(x + r * channels + c, channels - c);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                v.v[i] = p.z(_mm512_sub_ps(v.v[i], at(p.mean.data(), c, i)), c, i);
                if (Silu) v.v[i] = _mm512_mul_ps(v.v[i], sigmoid(v.v[i]));
            }
            store_part(y + r * channels + c, v, channels - c);
        }
}

template <typename T>
void forward(const GroupNorm& n) {
    Sums sums(n.samples, n.rows, n.channels);
    std::vector<Channels> channels(n.samples);
    const auto* x = static_cast<const T*>(n.x);
    auto* y = static_cast<T*>(n.y);
    const int64_t parts = sums.parts;
#pragma omp parallel num_threads(n.threads) if (n.threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t task = 0; task < n.samples * parts; ++task) {
            const int64_t sample = task / parts, row = task % parts * PART;
            const T* start = x + sample * n.rows * n.channels;
            sum_part<T>(start + row * n.channels, start, std::min(PART, n.rows - row), n.channels, sums.at(task, 0), sums.at(task, 1));
        }
#pragma omp for schedule(static)
        for (int64_t task = 0; task < n.samples * n.groups; ++task) moments<T>(n, sums, task / n.groups, task % n.groups);
#pragma omp for schedule(static)
        for (int64_t s = 0; s < n.samples; ++s)
            channels[s].fill<T>(n.channels, n.groups, n.mean + s * n.groups, n.rstd + s * n.groups, n.weight, n.bias);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < n.samples * parts; ++task) {
            const int64_t row = task % parts * PART, start = (task / parts * n.rows + row) * n.channels;
            const auto apply = n.silu ? normalize<T, true> : normalize<T, false>;
            apply(x + start, channels[task / parts], std::min(PART, n.rows - row), n.channels, y + start);
        }
    }
}

// x of one row and the gradient of z, of 64 channels.
template <typename T, bool Codes>
struct Gradient {
    const GroupNormGrad& n;

    Block distance(int64_t row, int64_t c, const Channels& p) const {
        const int64_t left = n.channels - c, start = row * n.channels + c;
        Block x;
        if (Codes) {
            const T* kind = nullptr;
            x = codes_block(kind, static_cast<const int8_t*>(n.x) + start, first(left));
        } else {
            x = load_part(static_cast<const T*>(n.x) + start, left);
        }
        const __m512 scale = constant(Codes ? n.scale[row] : 1.0f);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m512 v = Codes ? _mm512_mul_ps(x.v[i], scale) : x.v[i];
            x.v[i] = _mm512_sub_ps(v, at(p.mean.data(), c, i));
        }
        return x;
    }

    Block grad_z(int64_t row, int64_t c, const Channels& p, const Block& distance) const {
        Block g = load_part(static_cast<const T*>(n.grad) + row * n.channels + c, n.channels - c);
        if (!n.silu) return g;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {  // d (z s) / dz = s (1 + z (1 - s))
            const __m512 z = p.z(distance.v[i], c, i), s = sigmoid(z);
            const __m512 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(z, _mm512_sub_ps(constant(1.0f), s), constant(1.0f)));
            g.v[i] = _mm512_mul_ps(g.v[i], slope);
        }
        return g;
    }

    // Sums by channel of dz and of dz (x - mean).
    void sum_part(int64_t first_row, int64_t rows, const Channels& p, float* sum, float* products) const {
        for (int64_t c = 0; c < n.channels; c += BLOCK) {
            Block s = {}, q = {};
            for (int64_t row = first_row; row < first_row + rows; ++row) {
                const Block d = distance(row, c, p), g = grad_z(row, c, p, d);
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) {
                    s.v[i] = _mm512_add_ps(s.v[i], g.v[i]);
                    q.v[i] = _mm512_fmadd_ps(g.v[i], d.v[i], q.v[i]);
                }
            }
            store_part(sum + c, s, BLOCK);
            store_part(products + c, q, BLOCK);
        }
    }

    // dx = slope dz - level - (x - mean) tilt, where level and tilt belong to the group.
    void apply(int64_t row, const Channels& p, const float* level, const float* tilt) const {
        for (int64_t c = 0; c < n.channels; c += BLOCK) {
            const Block d = distance(row, c, p);
            Block g = grad_z(row, c, p, d);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                const __m512 taken = _mm512_fmadd_ps(d.v[i], at(tilt, c, i), at(level, c, i));
                g.v[i] = _mm512_fmsub_ps(g.v[i], at(p.slope.data(), c, i), taken);
            }
            store_part(static_cast<T*>(n.grad_x) + row * n.channels + c, g, n.channels - c);
        }
    }
};

// From the sums of a sample's group to its level and tilt: rstd times the means of w dz and of w dz xhat, the latter
// once more times rstd.
template <typename T>
void level_and_tilt(const GroupNormGrad& n, Sums& sums, int64_t sample, int64_t group, float* level, float* tilt) {
    const int64_t width = n.channels / n.groups;
    const double rstd = n.rstd[sample * n.groups + group];
    double first = 0, second = 0;
    for (int64_t c = group * width; c < (group + 1) * width; ++c) {
        const double w = n.weight ? n.weight[c] : 1.0;
        first += w * sums.total(sample, 0, element_of<T>(c));
        second += w * sums.total(sample, 1, element_of<T>(c));
    }
    const double count = static_cast<double>(width) * static_cast<double>(n.rows);
    for (int64_t c = group * width; c < (group + 1) * width; ++c) {
        level[element_of<T>(c)] = static_cast<float>(rstd * first / count);
        tilt[element_of<T>(c)] = static_cast<float>(rstd * rstd * rstd * second / count);
    }
}

template <typename T>
void grad_of_channel(const GroupNormGrad& n, Sums& sums, int64_t c) {
    double weight = 0, bias = 0;
    for (int64_t s = 0; s < n.samples; ++s) {
        bias += sums.total(s, 0, element_of<T>(c));
        weight += sums.total(s, 1, element_of<T>(c)) * n.rstd[s * n.groups + c / (n.channels / n.groups)];
    }
    n.grad_weight[c] = static_cast<float>(weight);
    n.grad_bias[c] = static_cast<float>(bias);
}

template <typename T, bool Codes>
void backward(const GroupNormGrad& n) {
    Sums sums(n.samples, n.rows, n.channels);
    std::vector<Channels> channels(n.samples);
    std::vector<float> level(n.samples * sums.padded), tilt(n.samples * sums.padded);
    const Gradient<T, Codes> gradient{n};
    const int64_t parts = sums.parts;
#pragma omp parallel num_threads(n.threads) if (n.threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t s = 0; s < n.samples; ++s)
            channels[s].fill<T>(n.channels, n.groups, n.mean + s * n.groups, n.rstd + s * n.groups, n.weight, n.bias);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < n.samples * parts; ++task) {
            const int64_t s = task / parts, row = task % parts * PART;
            gradient.sum_part(s * n.rows + row, std::min(PART, n.rows - row), channels[s], sums.at(task, 0), sums.at(task, 1));
        }
#pragma omp for schedule(static)
        for (int64_t task = 0; task < n.samples * n.groups; ++task) {
            const int64_t s = task / n.groups, start = s * sums.padded;
            level_and_tilt<T>(n, sums, s, task % n.groups, level.data() + start, tilt.data() + start);
        }
#pragma omp for schedule(static) nowait
        for (int64_t c = 0; c < n.channels; ++c) grad_of_channel<T>(n, sums, c);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < n.samples * n.rows; ++row) {
            const int64_t s = row / n.rows, start = s * sums.padded;
            gradient.apply(row, channels[s], level.data() + start, tilt.data() + start);
        }
    }
}

}  // namespace
}  // namespace intaglio

extern "C" void intaglio_group_norm(const GroupNorm* norm) {
    using namespace intaglio;
    norm->type == 1 ? forward<float>(*norm) : forward<bf16>(*norm);
}

extern "C" void intaglio_group_norm_grad(const GroupNormGrad* grad) {
    using namespace intaglio;
    if (grad->type == 1)
        grad->scale ? backward<float, true>(*grad) : backward<float, false>(*grad);
    else
        grad->scale ? backward<bf16, true>(*grad) : backward<bf16, false>(*grad);
}
