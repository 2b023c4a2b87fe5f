// Codes of 2 to 8 bits, with float or power-of-two scales, by rows or by columns.

#include <vector>

#include "codes/native/codes.h"
#include "native/scales_avx512.h"

namespace intaglio {
namespace {

inline __m512 load16(const float* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
inline __m512 load16(const uint16_t* p, __mmask16 mask) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16));
}

// x * factor, or x / divisor, of columns [c, c + 16).
template <typename T>
inline __m512 values(const Codes& q, int64_t row, int64_t c, __mmask16 mask) {
    __m512 v = load16(static_cast<const T*>(q.x) + row * q.x_stride + c, mask);
    if (q.factor) v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, q.factor + c));
    if (q.divisor) v = _mm512_div_ps(v, _mm512_set1_ps(q.divisor[row]));
    return v;
}

template <typename T, bool S>
void group(const Codes& q, int64_t g) {
    const int64_t count = q.rows / q.groups, start = g * count;
    __m512i top = _mm512_setzero_si512();
    for (int64_t r = start; r < start + count; ++r)
        for (int64_t c = 0; c < q.columns; c += 16)
            top = _mm512_max_epi32(top, magnitude16(values<T>(q, r, c, first16(q.columns - c))));
    const auto largest = from_bits<float>(_mm512_reduce_max_epi32(top));
    const float scale = scale_for(largest, q.max_code, q.power_of_two, q.smallest);
    q.scale[g] = scale;
    if (std::isnan(scale)) {
        std::memset(q.codes + start * q.columns, 0, count * q.columns);
        return;
    }
    const __m512 divisor = _mm512_set1_ps(scale);
    const __m512i max_code = _mm512_set1_epi32(static_cast<int32_t>(q.max_code));
    for (int64_t r = start; r < start + count; ++r)
        for (int64_t c = 0; c < q.columns; c += 16) {
            const __mmask16 mask = first16(q.columns - c);
            const __m512 scaled = _mm512_div_ps(values<T>(q, r, c, mask), divisor);
            const auto index = static_cast<uint32_t>(r * q.columns + c);
            const __m512i codes = codes16<S>(scaled, max_code, index, static_cast<uint32_t>(q.seed));
            store16(q.codes + r * q.columns + c, mask, _mm512_cvtepi32_epi8(codes));
        }
}

template <typename T, bool S>
void by_group(const Codes& q) {
#pragma omp parallel for num_threads(q.threads) schedule(static) if (q.threads > 1 && q.groups > 1)
    for (int64_t g = 0; g < q.groups; ++g) group<T, S>(q, g);
}

// Sixteen columns.
template <typename T, bool S>
void columns(const Codes& q, int64_t c) {
    const __mmask16 mask = first16(q.columns - c);
    __m512i top = _mm512_setzero_si512();
    for (int64_t r = 0; r < q.rows; ++r) top = _mm512_max_epi32(top, magnitude16(values<T>(q, r, c, mask)));
    alignas(64) float scale[16];
    _mm512_store_si512(scale, top);
    for (float& s : scale) s = scale_for(s, q.max_code, q.power_of_two, q.smallest);
    const __m512 divisor = _mm512_load_ps(scale);
    _mm512_mask_storeu_ps(q.scale + c, mask, divisor);
    const __mmask16 finite = _mm512_cmp_ps_mask(divisor, divisor, _CMP_ORD_Q);
    const __m512i max_code = _mm512_set1_epi32(static_cast<int32_t>(q.max_code));
    for (int64_t r = 0; r < q.rows; ++r) {
        const __m512 scaled = _mm512_maskz_div_ps(finite, values<T>(q, r, c, mask), divisor);
        const auto index = static_cast<uint32_t>(r * q.columns + c);
        const __m512i codes = codes16<S>(scaled, max_code, index, static_cast<uint32_t>(q.seed));
        store16(q.codes + r * q.columns + c, mask, _mm512_cvtepi32_epi8(codes));
    }
}

template <typename T, bool S>
void either(const Codes& q) {
    if (q.groups) return by_group<T, S>(q);
    for (int64_t c = 0; c < q.columns; c += 16) columns<T, S>(q, c);
}

}  // namespace

namespace avx512 {

void codes(const Codes& call) {
    if (call.x_type == 1)
        call.stochastic ? either<float, true>(call) : either<float, false>(call);
    else
        call.stochastic ? either<uint16_t, true>(call) : either<uint16_t, false>(call);
}

}  // namespace avx512
}  // namespace intaglio
