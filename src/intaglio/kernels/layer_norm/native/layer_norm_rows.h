// Layer norm of rows: a row is read while it is in the L1 cache, its sums are kept in one vector.
#pragma once
#include <cmath>
#include <cstdint>

#include "layer_norm/native/layer_norm.h"

namespace intaglio {
namespace {

// Per-column values of any type in block order, `otherwise` where there are none.
template <typename T>
struct Ordered : Array<float> {
    Ordered(const void* from, int64_t type, int64_t columns, float otherwise)
        : Array<float>((columns + BLOCK - 1) / BLOCK * BLOCK) {
        for (int64_t e = 0; e < (columns + BLOCK - 1) / BLOCK * BLOCK; ++e) {
            const int64_t column = e / BLOCK * BLOCK + column_of<T>(e % BLOCK);
            if (column < columns) data[e] = element(from, type, column, otherwise);
        }
    }
};

inline Vec sum_of(const Block& x) { return add(add(x.v[0], x.v[1]), add(x.v[2], x.v[3])); }

template <typename T>
void forward_row(const LayerNorm& n, int64_t row, const float* weight, const float* bias) {
    const T* x = static_cast<const T*>(n.x) + row * n.columns;
    T* y = static_cast<T*>(n.y) + row * n.columns;
    Vec sum = constant(0.0f), squares = constant(0.0f);
    for (int64_t c = 0; c < n.columns; c += BLOCK) sum = add(sum, sum_of(load_part(x + c, n.columns - c)));
    const double count = static_cast<double>(n.columns);
    const auto mean = static_cast<float>(total(sum) / count);
    const Vec m = constant(mean);
    for (int64_t c = 0; c < n.columns; c += BLOCK) {
        const Block v = load_part(x + c, n.columns - c);
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; ++i) {
            const Vec d = inside<T>(sub(v.v[i], m), n.columns - c, i);
            squares = fmadd(d, d, squares);
        }
    }
    const auto rstd = static_cast<float>(1.0 / std::sqrt(total(squares) / count + n.eps));
    if (n.codes) n.scale[row] = quantize_row(x, n.columns, n.codes + row * n.columns);
    n.mean[row] = mean;
    n.rstd[row] = rstd;
    const Vec r = constant(rstd);
    for (int64_t c = 0; c < n.columns; c += BLOCK) {
        Block v = load_part(x + c, n.columns - c);
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; ++i) {
            const Vec xhat = mul(sub(v.v[i], m), r);
            v.v[i] = fmadd(xhat, at(weight, c, i), at(bias, c, i));
        }
        store_part(y + c, v, n.columns - c);
    }
}

// xhat of 64 columns.
template <typename T, bool Codes>
Block normalized(const LayerNormGrad& n, int64_t row, int64_t c) {
    const int64_t left = n.columns - c, start = row * n.columns + c;
    const T* kind = nullptr;
    Block x = Codes ? codes_part(kind, static_cast<const int8_t*>(n.x) + start, left)
                    : load_part(static_cast<const T*>(n.x) + start, left);
    const Vec scale = constant(Codes ? n.scale[row] : 1.0f), mean = constant(n.mean[row]), rstd = constant(n.rstd[row]);
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS; ++i) {
        const Vec v = Codes ? mul(x.v[i], scale) : x.v[i];
        x.v[i] = mul(sub(v, mean), rstd);
    }
    return x;
}

// dx = rstd (w dy - mean(w dy) - xhat mean(w dy xhat)). Lanes outside of the row add nothing: their dy is 0.
template <typename T, bool Codes>
void backward_row(const LayerNormGrad& n, int64_t row, const float* weight) {
    const T* grad = static_cast<const T*>(n.grad) + row * n.columns;
    T* to = static_cast<T*>(n.grad_x) + row * n.columns;
    Vec sum = constant(0.0f), products = constant(0.0f);
    for (int64_t c = 0; c < n.columns; c += BLOCK) {
        const Block x = normalized<T, Codes>(n, row, c), g = load_part(grad + c, n.columns - c);
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; ++i) {
            const Vec v = mul(g.v[i], at(weight, c, i));
            sum = add(sum, v);
            products = fmadd(v, x.v[i], products);
        }
    }
    const double count = static_cast<double>(n.columns);
    const Vec level = constant(static_cast<float>(total(sum) / count));
    const Vec tilt = constant(static_cast<float>(total(products) / count)), rstd = constant(n.rstd[row]);
    for (int64_t c = 0; c < n.columns; c += BLOCK) {
        const Block x = normalized<T, Codes>(n, row, c);
        Block g = load_part(grad + c, n.columns - c);
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; ++i) {
            const Vec v = fmsub(g.v[i], at(weight, c, i), level);
            g.v[i] = mul(fnmadd(x.v[i], tilt, v), rstd);
        }
        store_part(to + c, g, n.columns - c);
    }
}

template <typename T>
void layer_norm_forward(const LayerNorm& n) {
    const Ordered<T> weight(n.weight, n.affine_type, n.columns, 1.0f), bias(n.bias, n.affine_type, n.columns, 0.0f);
#pragma omp parallel for num_threads(n.threads) schedule(static) if (n.threads > 1)
    for (int64_t row = 0; row < n.rows; ++row) forward_row<T>(n, row, weight.data, bias.data);
}

template <typename T, bool Codes>
void layer_norm_backward(const LayerNormGrad& n) {
    const Ordered<T> weight(n.weight, n.affine_type, n.columns, 1.0f);
#pragma omp parallel for num_threads(n.threads) schedule(static) if (n.threads > 1)
    for (int64_t row = 0; row < n.rows; ++row) backward_row<T, Codes>(n, row, weight.data);
}

void layer_norm(const LayerNorm& n) { n.type == 1 ? layer_norm_forward<float>(n) : layer_norm_forward<bf16>(n); }

void layer_norm_grad(const LayerNormGrad& n) {
    if (n.type == 1)
        n.scale ? layer_norm_backward<float, true>(n) : layer_norm_backward<float, false>(n);
    else
        n.scale ? layer_norm_backward<bf16, true>(n) : layer_norm_backward<bf16, false>(n);
}

}  // namespace
}  // namespace intaglio
