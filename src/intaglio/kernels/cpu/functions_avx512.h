// exp, sigmoid and the normal distribution, 16 float32 at a time.
//
// Coarse ones, for what becomes bfloat16, err by 2e-4: a tenth of what its rounding errs by.
#pragma once
#include <immintrin.h>

namespace intaglio {
namespace {

inline __m512 constant(float v) { return _mm512_set1_ps(v); }

inline __m512 to_nearest(__m512 x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// e^x with a relative error under 3e-7, coarse 1e-4; x within -87..88, and what lies beyond counts as the end.
// 2^n 2^f, n the nearest integer to x log2 e; 2^f by its Chebyshev interpolants on [-1/2, 1/2]. NaN stays NaN: the second
// operand of min and max is what it passes by.
template <bool Coarse>
inline __m512 exp_(__m512 x) {
    x = _mm512_max_ps(constant(-87.0f), _mm512_min_ps(constant(88.0f), x));
    const __m512 log2e = constant(1.44269502f), rest = constant(1.92596303e-8f);  // log2 e as a sum of two
    const __m512 t = _mm512_mul_ps(x, log2e), n = to_nearest(t);
    if (Coarse) {
        const __m512 f = _mm512_sub_ps(t, n);
        __m512 p = _mm512_fmadd_ps(constant(5.58382832e-2f), f, constant(2.42639482e-1f));
        p = _mm512_fmadd_ps(p, f, constant(6.93136752e-1f));
        p = _mm512_fmadd_ps(p, f, constant(9.99924541e-1f));
        return _mm512_scalef_ps(p, n);
    }
    const __m512 f = _mm512_fmadd_ps(x, rest, _mm512_fmsub_ps(x, log2e, n));
    __m512 p = _mm512_fmadd_ps(constant(1.33908633e-3f), f, constant(9.67603177e-3f));
    p = _mm512_fmadd_ps(p, f, constant(5.55035695e-2f));
    p = _mm512_fmadd_ps(p, f, constant(2.40221068e-1f));
    p = _mm512_fmadd_ps(p, f, constant(6.93147182e-1f));
    p = _mm512_fmadd_ps(p, f, constant(1.00000012f));
    return _mm512_scalef_ps(p, n);
}

// 1 / x from 14 bits, by a step of Newton unless coarse: a relative error under 2e-7. x between 2^-126 and 2^126.
template <bool Coarse>
inline __m512 reciprocal(__m512 x) {
    const __m512 r = _mm512_rcp14_ps(x);
    return Coarse ? r : _mm512_fmadd_ps(r, _mm512_fnmadd_ps(x, r, constant(1.0f)), r);
}

// 1 / (1 + e^-x); 0 below -85 for all uses: x sigmoid(x) is under 1e-34 there.
template <bool Coarse>
inline __m512 sigmoid(__m512 x) {
    const __m512 e = exp_<Coarse>(_mm512_min_ps(constant(85.0f), _mm512_sub_ps(_mm512_setzero_ps(), x)));
    return reciprocal<Coarse>(_mm512_add_ps(constant(1.0f), e));
}

struct Normal {
    __m512 cumulative;   // Phi(x), |error| < 2e-7; coarse 1e-4
    __m512 exponential;  // e^(-x^2 / 2)
};

// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: erfc(z) = (a1 t + ... + a5 t^5) e^(-z^2) with
// t = 1 / (1 + p z), z >= 0; here z = |x| / sqrt 2 and Phi(-|x|) = erfc(z) / 2.
template <bool Coarse>
inline Normal normal(__m512 x) {
    const __m512 z = _mm512_min_ps(constant(1e30f), _mm512_abs_ps(x));
    const __m512 e = exp_<Coarse>(_mm512_mul_ps(_mm512_mul_ps(x, x), constant(-0.5f)));
    const __m512 t = reciprocal<Coarse>(_mm512_fmadd_ps(z, constant(0.3275911f * 0.70710678f), constant(1.0f)));
    __m512 p = _mm512_fmadd_ps(constant(0.5f * 1.061405429f), t, constant(0.5f * -1.453152027f));
    p = _mm512_fmadd_ps(p, t, constant(0.5f * 1.421413741f));
    p = _mm512_fmadd_ps(p, t, constant(0.5f * -0.284496736f));
    p = _mm512_fmadd_ps(p, t, constant(0.5f * 0.254829592f));
    const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(p, t), e);
    const __mmask16 positive = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
    return {_mm512_mask_sub_ps(tail, positive, constant(1.0f), tail), e};
}

}  // namespace
}  // namespace intaglio
