// Scales, dither and codes, as `quantizers/activations.py` defines them.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace intaglio {

// Numbers of the same sign order like their bits, and what is not finite lies above all.
template <typename Real, typename Bits>
inline Real from_bits(Bits bits) {
    static_assert(sizeof(Real) == sizeof(Bits));
    Real v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

// The scale of a group whose largest value is `largest`; NaN when that is not finite.
template <typename Real>
inline Real scale_for(Real largest, int64_t max_code, bool power_of_two, Real smallest) {
    if (!std::isfinite(largest)) return std::numeric_limits<Real>::quiet_NaN();
    if (power_of_two) {
        if (largest == 0) return 1;
        int exponent;
        std::frexp(largest, &exponent);
        Real scale = std::ldexp(1 / static_cast<Real>(max_code + 1), exponent);
        if (largest > scale * static_cast<Real>(max_code)) scale *= 2;
        return scale < smallest ? smallest : scale;
    }
    const Real scale = largest / static_cast<Real>(max_code);
    return scale <= static_cast<Real>(std::numeric_limits<float>::min()) ? Real(1) : scale;
}

// 0 .. 2^16 - 1 for each of sixteen elements `index`, `index + 1`, ...: the upper half of the hash "lowbias32".
inline __m512i dither16(uint32_t index, uint32_t seed) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i h = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int32_t>(index + seed * 0x9e3779b9u)));
    h = _mm512_xor_si512(h, _mm512_srli_epi32(h, 16));
    h = _mm512_mullo_epi32(h, _mm512_set1_epi32(0x7feb352d));
    h = _mm512_xor_si512(h, _mm512_srli_epi32(h, 15));
    h = _mm512_mullo_epi32(h, _mm512_set1_epi32(static_cast<int32_t>(0x846ca68bu)));
    h = _mm512_xor_si512(h, _mm512_srli_epi32(h, 16));
    return _mm512_srli_epi32(h, 16);
}

// Codes of `scaled`, elements `index` and on of their tensor: half to even, or floor(scaled + dither / 2^16).
template <bool STOCHASTIC>
inline __m512i codes16(__m512 scaled, __m512i max_code, uint32_t index, uint32_t seed) {
    if (STOCHASTIC) {
        const __m512 fraction = _mm512_mul_ps(_mm512_cvtepi32_ps(dither16(index, seed)), _mm512_set1_ps(0x1p-16f));
        scaled = _mm512_roundscale_ps(_mm512_add_ps(scaled, fraction), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    }
    const __m512i codes = _mm512_cvtps_epi32(scaled);
    return _mm512_max_epi32(_mm512_min_epi32(codes, max_code), _mm512_sub_epi32(_mm512_setzero_si512(), max_code));
}

template <bool STOCHASTIC>
inline __m256i codes8(__m512d scaled, __m256i max_code, uint32_t index, uint32_t seed) {
    if (STOCHASTIC) {
        const __m256i bits = _mm512_castsi512_si256(dither16(index, seed));
        const __m512d fraction = _mm512_mul_pd(_mm512_cvtepi32_pd(bits), _mm512_set1_pd(0x1p-16));
        scaled = _mm512_roundscale_pd(_mm512_add_pd(scaled, fraction), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    }
    const __m256i codes = _mm512_cvtpd_epi32(scaled);
    return _mm256_max_epi32(_mm256_min_epi32(codes, max_code), _mm256_sub_epi32(_mm256_setzero_si256(), max_code));
}

// Bytes of the lanes of `mask`. Masked stores of bytes are slow, and most masks are whole.
inline void store16(int8_t* p, __mmask16 mask, __m128i bytes) {
    if (mask == 0xffff)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
    else
        _mm_mask_storeu_epi8(p, mask, bytes);
}
inline void store8(int8_t* p, __mmask8 mask, __m128i bytes) {
    if (mask == 0xff)
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), bytes);
    else
        _mm_mask_storeu_epi8(p, mask, bytes);
}

inline __m512i magnitude16(__m512 v) { return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff)); }
inline __m512i magnitude8(__m512d v) {
    return _mm512_and_si512(_mm512_castpd_si512(v), _mm512_set1_epi64(0x7fffffffffffffff));
}

// The first `count` lanes of 16, or of 8.
inline __mmask16 first16(int64_t count) { return static_cast<__mmask16>(count < 16 ? (1u << count) - 1 : 0xffffu); }
inline __mmask8 first8(int64_t count) { return static_cast<__mmask8>(count < 8 ? (1u << count) - 1 : 0xffu); }

}  // namespace intaglio
