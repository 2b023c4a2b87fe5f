// GELU, its tanh twin and SiLU, alone or as a gate.
#pragma once
#include <cstdint>

#include "native/functions.h"
#include "gated/native/gated.h"

namespace intaglio {
namespace {

enum class Function { gelu, gelu_tanh, silu };

constexpr float ROOT_1_2PI = 0.39894228f;  // sqrt(1 / (2 pi))
constexpr float ROOT_8_PI = 1.59576912f;   // 2 sqrt(2 / pi)
constexpr float CUBIC = 0.044715f;

struct Value {
    Vec f, slope;
};

// f(g), and f'(g) where it is asked for.
template <Function F, bool Coarse>
inline Value value_of(Vec g, bool slope) {
    const Vec one = constant(1.0f);
    if (F == Function::gelu) {
        const Normal n = normal<Coarse>(g);
        Value v{mul(g, n.cumulative), one};
        if (slope) v.slope = fmadd(mul(g, n.exponential), constant(ROOT_1_2PI), n.cumulative);
        return v;
    }
    const Vec square = minimum(constant(1e4f), mul(g, g));  // beyond 100 all is 0 or g
    const Vec t = F == Function::silu ? g
                                         : mul(mul(g, constant(ROOT_8_PI)),
                                                         fmadd(square, constant(CUBIC), one));
    const Vec s = sigmoid<Coarse>(t);  // f = g s(t), f' = s + g s (1 - s) t'
    Value v{mul(g, s), one};
    if (slope) {
        Vec rest = mul(v.f, sub(one, s));
        if (F == Function::gelu_tanh)
            rest = mul(rest, mul(constant(ROOT_8_PI), fmadd(square, constant(3 * CUBIC), one)));
        v.slope = add(s, rest);
    }
    return v;
}

template <typename T, Function F, bool Gate>
void gated_forward(const Gated& n) {
    const int64_t width = (Gate ? 2 : 1) * n.columns;
#pragma omp parallel for num_threads(n.threads) schedule(static) if (n.threads > 1)
    for (int64_t row = 0; row < n.rows; ++row) {
        const T* x = static_cast<const T*>(n.x) + row * width;
        T* y = static_cast<T*>(n.y) + row * n.columns;
        for (int64_t c = 0; c < n.columns; c += BLOCK) {
            const int64_t left = n.columns - c;
            Block g = load_part(x + (Gate ? n.columns : 0) + c, left);
            const Block a = Gate ? load_part(x + c, left) : g;
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; ++i) {
                const Vec f = value_of<F, sizeof(T) == 2>(g.v[i], false).f;
                g.v[i] = Gate ? mul(a.v[i], f) : f;
            }
            store_part(y + c, g, left);
        }
        for (int64_t part = 0; n.codes && part < (Gate ? 2 : 1); ++part) {
            int8_t* codes = n.codes + row * width + part * n.columns;
            n.scale[row * (Gate ? 2 : 1) + part] = quantize_row(x + part * n.columns, n.columns, codes);
        }
    }
}

// 64 columns of x from `start`, one part of a row whose codes have the scale number `part`.
template <typename T, bool Codes>
Block load_x(const GatedGrad& n, int64_t start, int64_t left, int64_t part) {
    if (!Codes) return load_part(static_cast<const T*>(n.x) + start, left);
    const T* kind = nullptr;
    Block x = codes_part(kind, static_cast<const int8_t*>(n.x) + start, left);
    const Vec scale = constant(n.scale[part]);
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS; ++i) x.v[i] = mul(x.v[i], scale);
    return x;
}

template <typename T, bool Codes, Function F, bool Gate>
void gated_backward(const GatedGrad& n) {
    constexpr int64_t PARTS = Gate ? 2 : 1;
#pragma omp parallel for num_threads(n.threads) schedule(static) if (n.threads > 1)
    for (int64_t row = 0; row < n.rows; ++row) {
        const T* grad = static_cast<const T*>(n.grad) + row * n.columns;
        for (int64_t c = 0; c < n.columns; c += BLOCK) {
            const int64_t left = n.columns - c, last = row * PARTS + PARTS - 1;
            Block dy = load_part(grad + c, left), g = load_x<T, Codes>(n, last * n.columns + c, left, last), a, da;
            if (Gate) a = load_x<T, Codes>(n, row * PARTS * n.columns + c, left, row * PARTS);
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; ++i) {
                const Value v = value_of<F, sizeof(T) == 2>(g.v[i], true);
                if (Gate) {
                    da.v[i] = mul(dy.v[i], v.f);
                    dy.v[i] = mul(dy.v[i], a.v[i]);
                }
                g.v[i] = mul(dy.v[i], v.slope);
            }
            T* to = static_cast<T*>(n.grad_x);
            if (Gate) store_part(to + row * PARTS * n.columns + c, da, left);
            store_part(to + last * n.columns + c, g, left);
        }
    }
}

template <typename T, Function F>
void gated_forward(const Gated& n) {
    n.gated ? gated_forward<T, F, true>(n) : gated_forward<T, F, false>(n);
}

template <typename T>
void gated_forward(const Gated& n) {
    if (n.function == 0)
        gated_forward<T, Function::gelu>(n);
    else if (n.function == 1)
        gated_forward<T, Function::gelu_tanh>(n);
    else
        gated_forward<T, Function::silu>(n);
}

template <typename T, Function F>
void gated_backward(const GatedGrad& n) {
    if (n.scale)
        n.gated ? gated_backward<T, true, F, true>(n) : gated_backward<T, true, F, false>(n);
    else
        n.gated ? gated_backward<T, false, F, true>(n) : gated_backward<T, false, F, false>(n);
}

template <typename T>
void gated_backward(const GatedGrad& n) {
    if (n.function == 0)
        gated_backward<T, Function::gelu>(n);
    else if (n.function == 1)
        gated_backward<T, Function::gelu_tanh>(n);
    else
        gated_backward<T, Function::silu>(n);
}

void gated(const Gated& n) { n.type == 1 ? gated_forward<float>(n) : gated_forward<bf16>(n); }

void gated_grad(const GatedGrad& n) { n.type == 1 ? gated_backward<float>(n) : gated_backward<bf16>(n); }

}  // namespace
}  // namespace intaglio
