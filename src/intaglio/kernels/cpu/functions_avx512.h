// exp, sigmoid and the normal distribution, 16 float32 at a time.
#pragma once
#include <immintrin.h>

namespace intaglio {

static inline __m512 constant(float v) { return _mm512_set1_ps(v); }

// e^x with a relative error under 3e-7; 0 and infinity beyond float32. The second operand of max is what NaN passes by.
// 2^n 2^f, n the nearest integer to x log2 e; 2^f by the Chebyshev interpolant of degree 5 on [-1/2, 1/2].
static inline __m512 exp_(__m512 x) {
    x = _mm512_max_ps(constant(-200.0f), x);
    const __m512 log2e = constant(1.44269502f), rest = constant(1.92596303e-8f);  // log2 e as a sum of two
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_fmadd_ps(x, rest, _mm512_fmsub_ps(x, log2e, n));
    __m512 p = constant(1.33908633e-3f);
    p = _mm512_fmadd_ps(p, f, constant(9.67603177e-3f));
    p = _mm512_fmadd_ps(p, f, constant(5.55035695e-2f));
    p = _mm512_fmadd_ps(p, f, constant(2.40221068e-1f));
    p = _mm512_fmadd_ps(p, f, constant(6.93147182e-1f));
    p = _mm512_fmadd_ps(p, f, constant(1.00000012f));
    return _mm512_scalef_ps(p, n);
}

// 1 / x by one step of Newton from 14 bits: a relative error under 2e-7, for x between 2^-126 and 2^126.
static inline __m512 reciprocal(__m512 x) {
    const __m512 r = _mm512_rcp14_ps(x);
    return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(x, r, constant(1.0f)), r);
}

// 1 / (1 + e^-x). Below -80 it is 0 for all uses: x sigmoid(x) is under 2e-33 there.
static inline __m512 sigmoid(__m512 x) {
    const __m512 e = exp_(_mm512_min_ps(constant(80.0f), _mm512_sub_ps(_mm512_setzero_ps(), x)));
    return reciprocal(_mm512_add_ps(constant(1.0f), e));
}

struct Normal {
    __m512 cumulative;   // Phi(x), |error| < 2e-7
    __m512 exponential;  // e^(-x^2 / 2)
};

// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: erfc(z) = (a1 t + ... + a5 t^5) e^(-z^2) with
// t = 1 / (1 + p z), z >= 0; here z = |x| / sqrt 2 and Phi(-|x|) = erfc(z) / 2.
static inline Normal normal(__m512 x) {
    const __m512 z = _mm512_abs_ps(x);
    const __m512 e = exp_(_mm512_mul_ps(_mm512_mul_ps(x, x), constant(-0.5f)));
    const __m512 t = reciprocal(_mm512_fmadd_ps(_mm512_min_ps(z, constant(1e30f)), constant(0.3275911f * 0.70710678f), constant(1.0f)));
    __m512 p = constant(0.5f * 1.061405429f);
    p = _mm512_fmadd_ps(p, t, constant(0.5f * -1.453152027f));
    p = _mm512_fmadd_ps(p, t, constant(0.5f * 1.421413741f));
    p = _mm512_fmadd_ps(p, t, constant(0.5f * -0.284496736f));
    p = _mm512_fmadd_ps(p, t, constant(0.5f * 0.254829592f));
    const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(p, t), e);
    const __mmask16 positive = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
    return {_mm512_mask_sub_ps(tail, positive, constant(1.0f), tail), e};
}

}  // namespace intaglio
