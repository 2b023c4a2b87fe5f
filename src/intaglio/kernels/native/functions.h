// exp, sigmoid and the normal distribution of a vector of float32, by the operations of `vectors_avx512.h` or `vectors_avx2.h`.
//
// Coarse ones, for what becomes bfloat16, err by 2e-4: a tenth of what its rounding errs by.
#pragma once
namespace intaglio {
namespace {

// e^x with a relative error under 3e-7, coarse 1e-4; x within -87..88, and what lies beyond counts as the end.
// 2^n 2^f, n the nearest integer to x log2 e; 2^f by its Chebyshev interpolants on [-1/2, 1/2]. NaN stays NaN: the second
// operand of min and max is what it passes by.
template <bool Coarse>
inline Vec exp_(Vec x) {
    x = maximum(constant(-87.0f), minimum(constant(88.0f), x));
    const Vec log2e = constant(1.44269502f), rest = constant(1.92596303e-8f);  // log2 e as a sum of two
    const Vec t = mul(x, log2e), n = to_nearest(t);
    if (Coarse) {
        const Vec f = sub(t, n);
        Vec p = fmadd(constant(5.58382832e-2f), f, constant(2.42639482e-1f));
        p = fmadd(p, f, constant(6.93136752e-1f));
        p = fmadd(p, f, constant(9.99924541e-1f));
        return times_power(p, n);
    }
    const Vec f = fmadd(x, rest, fmsub(x, log2e, n));
    Vec p = fmadd(constant(1.33908633e-3f), f, constant(9.67603177e-3f));
    p = fmadd(p, f, constant(5.55035695e-2f));
    p = fmadd(p, f, constant(2.40221068e-1f));
    p = fmadd(p, f, constant(6.93147182e-1f));
    p = fmadd(p, f, constant(1.00000012f));
    return times_power(p, n);
}

// 1 / (1 + e^-x); 0 below -85 for all uses: x sigmoid(x) is under 1e-34 there.
template <bool Coarse>
inline Vec sigmoid(Vec x) {
    const Vec e = exp_<Coarse>(minimum(constant(85.0f), sub(constant(0.0f), x)));
    return reciprocal<Coarse>(add(constant(1.0f), e));
}

struct Normal {
    Vec cumulative;   // Phi(x), |error| < 2e-7; coarse 1e-4
    Vec exponential;  // e^(-x^2 / 2)
};

// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: erfc(z) = (a1 t + ... + a5 t^5) e^(-z^2) with
// t = 1 / (1 + p z), z >= 0; here z = |x| / sqrt 2 and Phi(-|x|) = erfc(z) / 2.
template <bool Coarse>
inline Normal normal(Vec x) {
    const Vec z = minimum(constant(1e30f), absolute(x));
    const Vec e = exp_<Coarse>(mul(mul(x, x), constant(-0.5f)));
    const Vec t = reciprocal<Coarse>(fmadd(z, constant(0.3275911f * 0.70710678f), constant(1.0f)));
    Vec p = fmadd(constant(0.5f * 1.061405429f), t, constant(0.5f * -1.453152027f));
    p = fmadd(p, t, constant(0.5f * 1.421413741f));
    p = fmadd(p, t, constant(0.5f * -0.284496736f));
    p = fmadd(p, t, constant(0.5f * 0.254829592f));
    const Vec tail = mul(mul(p, t), e);
    return {where_positive(x, sub(constant(1.0f), tail), tail), e};
}

}  // namespace
}  // namespace intaglio
