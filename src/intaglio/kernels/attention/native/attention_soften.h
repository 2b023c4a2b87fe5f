// Scores -> weights, for the forward products of attention: queries in the lanes, keys in the rows.
#pragma once
#include <limits>

#include "attention/native/attention_tiles.h"

namespace intaglio::attention {

constexpr float LEAST_SCALE = 1e-30f;  // a smaller one counts as this: 0 times the -inf of padding would be NaN

// Weights in bfloat16, in pairs of keys.
struct Bfloat16Weights {
    static constexpr int KEYS = 2;
    static constexpr float LOG2_OF_ONE = 0;  // what 1 is stored as
    static __m512i pack(const __m512* p) { return pairs(p[0], p[1]); }
};

// What is kept of the keys seen so far, by lane.
struct Running {
    alignas(64) float maximum[WIDE], total[WIDE], factor[WIDE];  // factor: what older sums are to be multiplied by
    Running() {
        std::fill(maximum, maximum + WIDE, -std::numeric_limits<float>::max());  // finite: its factor is 0, not NaN
        std::fill(total, total + WIDE, 0.0f);
    }
};

// `keys` rows of V vectors, a multiple of Weights::KEYS; `scale` (V * LANES), with log2 e in it.
template <int V, typename Weights>
[[gnu::noinline]] void soften(const float* scores, int64_t keys, const float* scale, Running& running, Pair* weights) {
    constexpr int K = Weights::KEYS;
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v, scores += LANES, weights += LANES) {
        const __m512 before = _mm512_loadu_ps(running.maximum + v * LANES), by = _mm512_loadu_ps(scale + v * LANES);
        __m512 top[2] = {before, before}, sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t key = 0; key < keys; key += 2) {
            top[0] = _mm512_max_ps(top[0], _mm512_loadu_ps(scores + key * V * LANES));
            top[1] = _mm512_max_ps(top[1], _mm512_loadu_ps(scores + (key + 1) * V * LANES));
        }
        top[0] = _mm512_max_ps(top[0], top[1]);
        const __m512 highest = _mm512_mul_ps(top[0], by);
        const __m512 offset = _mm512_sub_ps(highest, _mm512_set1_ps(Weights::LOG2_OF_ONE));
        const __m512 shrink = exp2(_mm512_fmsub_ps(before, by, highest));
        for (int64_t key = 0; key < keys; key += K) {
            __m512 p[K];
#pragma GCC unroll 4
            for (int i = 0; i < K; ++i) {
                p[i] = exp2(_mm512_fmsub_ps(_mm512_loadu_ps(scores + (key + i) * V * LANES), by, offset));
                sum[i % 2] = _mm512_add_ps(sum[i % 2], p[i]);
            }
            _mm512_storeu_si512(weights + key / K * V * LANES, Weights::pack(p));
        }
        float* total = running.total + v * LANES;
        _mm512_storeu_ps(total, _mm512_fmadd_ps(_mm512_loadu_ps(total), shrink, _mm512_add_ps(sum[0], sum[1])));
        _mm512_storeu_ps(running.maximum + v * LANES, top[0]);
        _mm512_storeu_ps(running.factor + v * LANES, shrink);
    }
}

}  // namespace intaglio::attention
