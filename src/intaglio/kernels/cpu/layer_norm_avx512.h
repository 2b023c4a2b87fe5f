// Layer norm of rows, for AVX-512: a row is read while it is in the L1 cache, its sums are kept in one vector.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>

#include "functions_avx512.h"
#include "group_norm_avx512.h"
#include "norms.h"
#include "round_avx512.h"
#include "vectors_avx512.h"

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

inline __m512 sum_of(const Block& x) { return _mm512_add_ps(_mm512_add_ps(x.v[0], x.v[1]), _mm512_add_ps(x.v[2], x.v[3])); }

// Sums the lanes in float64: one rounding for the row.
inline double total(__m512 v) {
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    const __m512d high = _mm512_cvtps_pd(_mm512_castps512_ps256(_mm512_shuffle_f32x4(v, v, 0xee)));
    return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
}

// Lanes of the last block that hold a column.
template <typename T>
inline __mmask16 inside(int64_t left, int i) {
    const T* kind = nullptr;
    return _mm512_cmplt_epi32_mask(columns_of(kind, i), _mm512_set1_epi32(static_cast<int>(left)));
}

template <typename T>
void forward_row(const LayerNorm& n, int64_t row, const float* weight, const float* bias) {
    const T* x = static_cast<const T*>(n.x) + row * n.columns;
    T* y = static_cast<T*>(n.y) + row * n.columns;
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int64_t c = 0; c < n.columns; c += BLOCK) sum = _mm512_add_ps(sum, sum_of(load_part(x + c, n.columns - c)));
    const double count = static_cast<double>(n.columns);
    const auto mean = static_cast<float>(total(sum) / count);
    const __m512 m = constant(mean);
    for (int64_t c = 0; c < n.columns; c += BLOCK) {
        const Block v = load_part(x + c, n.columns - c);
        const bool whole = n.columns - c >= BLOCK;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m512 d = _mm512_maskz_sub_ps(whole ? 0xffff : inside<T>(n.columns - c, i), v.v[i], m);
            squares = _mm512_fmadd_ps(d, d, squares);
        }
    }
    const auto rstd = static_cast<float>(1.0 / std::sqrt(total(squares) / count + n.eps));
    if (n.codes) n.scale[row] = quantize_row(x, n.columns, n.codes + row * n.columns);
    n.mean[row] = mean;
    n.rstd[row] = rstd;
    const __m512 r = constant(rstd);
    for (int64_t c = 0; c < n.columns; c += BLOCK) {
        Block v = load_part(x + c, n.columns - c);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m512 xhat = _mm512_mul_ps(_mm512_sub_ps(v.v[i], m), r);
            v.v[i] = _mm512_fmadd_ps(xhat, at(weight, c, i), at(bias, c, i));
        }
        store_part(y + c, v, n.columns - c);
    }
}

// xhat of 64 columns.
template <typename T, bool Codes>
Block normalized(const LayerNormGrad& n, int64_t row, int64_t c) {
    const int64_t left = n.columns - c, start = row * n.columns + c;
    const T* kind = nullptr;
    Block x = Codes ? codes_block(kind, static_cast<const int8_t*>(n.x) + start, first(left))
                    : load_part(static_cast<const T*>(n.x) + start, left);
    const __m512 scale = constant(Codes ? n.scale[row] : 1.0f), mean = constant(n.mean[row]), rstd = constant(n.rstd[row]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m512 v = Codes ? _mm512_mul_ps(x.v[i], scale) : x.v[i];
        x.v[i] = _mm512_mul_ps(_mm512_sub_ps(v, mean), rstd);
    }
    return x;
}

// dx = rstd (w dy - mean(w dy) - xhat mean(w dy xhat)). Lanes outside of the row add nothing: their dy is 0.
template <typename T, bool Codes>
void backward_row(const LayerNormGrad& n, int64_t row, const float* weight) {
    const T* grad = static_cast<const T*>(n.grad) + row * n.columns;
    T* to = static_cast<T*>(n.grad_x) + row * n.columns;
    __m512 sum = _mm512_setzero_ps(), products = _mm512_setzero_ps();
    for (int64_t c = 0; c < n.columns; c += BLOCK) {
        const Block x = normalized<T, Codes>(n, row, c), g = load_part(grad + c, n.columns - c);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m512 v = _mm512_mul_ps(g.v[i], at(weight, c, i));
            sum = _mm512_add_ps(sum, v);
            products = _mm512_fmadd_ps(v, x.v[i], products);
        }
    }
    const double count = static_cast<double>(n.columns);
    const __m512 level = constant(static_cast<float>(total(sum) / count));
    const __m512 tilt = constant(static_cast<float>(total(products) / count)), rstd = constant(n.rstd[row]);
    for (int64_t c = 0; c < n.columns; c += BLOCK) {
        const Block x = normalized<T, Codes>(n, row, c);
        Block g = load_part(grad + c, n.columns - c);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m512 v = _mm512_fmsub_ps(g.v[i], at(weight, c, i), level);
            g.v[i] = _mm512_mul_ps(_mm512_fnmadd_ps(x.v[i], tilt, v), rstd);
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
