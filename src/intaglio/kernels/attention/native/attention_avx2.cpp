// Attention forward for AVX2: for a block of queries, block after block of keys, with the running maximum of each row.

#include "attention/native/attention_avx2.h"

namespace intaglio::attention {
namespace {

constexpr float LOWEST = -std::numeric_limits<float>::max();  // finite: times a scale of 0 it is 0, not NaN

struct Forward {
    const Attention& a;
    int64_t stride;  // of rows of channels
    float *keys, *values, *queries, *scores, *sums;
    float maximum[QUERIES], total[QUERIES];

    Forward(const Attention& attention, Scratch& scratch) : a(attention), stride(odd_lines(a.head_dim)) {
        keys = scratch.take<float>(round_up(a.keys, PANEL) / PANEL * panel_size(a.head_dim));
        values = scratch.take<float>(a.keys * stride);
        queries = scratch.take<float>(QUERIES * stride);
        scores = scratch.take<float>(QUERIES * SCORES);
        sums = scratch.take<float>(QUERIES * stride);
    }

    void run(int64_t task, bool first) {
        const int64_t blocks = (a.queries + QUERIES - 1) / QUERIES, batch = task / blocks / a.heads, head = task / blocks % a.heads;
        const int64_t query = task % blocks * QUERIES;
        if (first || query == 0) {
            pack_transposed(head_of(a.k, batch, head), a.k.token_stride, a.keys, a.head_dim, keys);
            widen_rows(a.v, batch, head, 0, a.keys, a.head_dim, values);
        }
        block(batch, head, query, std::min(QUERIES, a.queries - query));
    }

    void block(int64_t batch, int64_t head, int64_t query, int64_t count);
    float soften(int64_t row, int64_t keys_here);
};

// A row's scores -> its weights; returns what is to be multiplied to what was summed before.
float Forward::soften(int64_t row, int64_t keys_here) {
    float* s = scores + row * SCORES;
    const int64_t end = round_up(keys_here, EIGHT);
    std::fill(s + keys_here, s + end, LOWEST);
    __m256 top = _mm256_set1_ps(maximum[row]);
    for (int64_t k = 0; k < end; k += EIGHT) top = _mm256_max_ps(load8(s + k), top);  // the second where one is NaN
    const float before = maximum[row], now = highest(top);
    const __m256 by = _mm256_set1_ps(a.scale * LOG2_E), offset = _mm256_mul_ps(_mm256_set1_ps(now), by);
    __m256 sum = _mm256_setzero_ps();
    for (int64_t k = 0; k < end; k += EIGHT) {
        const __m256 p = _mm256_and_ps(exp2(_mm256_fmsub_ps(load8(s + k), by, offset)), first8(keys_here - k));
        store8(s + k, p);
        sum = _mm256_add_ps(sum, p);
    }
    const float shrink = _mm256_cvtss_f32(exp2(_mm256_fmsub_ps(_mm256_set1_ps(before), by, offset)));
    maximum[row] = now;
    total[row] = total[row] * shrink + sum_of(sum);
    return shrink;
}

void Forward::block(int64_t batch, int64_t head, int64_t query, int64_t count) {
    widen_rows(a.q, batch, head, query, count, a.head_dim, queries);
    std::fill(maximum, maximum + count, LOWEST);
    std::fill(total, total + count, 0.0f);
    for (int64_t key = 0; key < a.keys; key += KEYS) {
        const int64_t here = std::min(KEYS, a.keys - key), panel = panel_size(a.head_dim);
        multiply({queries, stride, 1}, {keys + key / PANEL * panel, PANEL, panel}, count, here, a.head_dim, scores, SCORES, false);
        for (int64_t row = 0; row < count; ++row) {
            const float shrink = soften(row, here);
            if (key == 0 || shrink == 1.0f) continue;
            for (int64_t c = 0; c < a.head_dim; c += EIGHT) {
                float* sum = sums + row * stride + c;
                store8(sum, _mm256_mul_ps(load8(sum), _mm256_set1_ps(shrink)));
            }
        }
        multiply({scores, SCORES, 1}, {values + key * stride, stride, PANEL}, count, a.head_dim, here, sums, stride, key > 0);
    }
    uint16_t* out = a.out.data + batch * a.out.batch_stride + head * a.out.head_stride + query * a.out.token_stride;
    float* lse = a.lse + (batch * a.heads + head) * a.queries + query;
    for (int64_t row = 0; row < count; ++row) {
        narrow_row(sums + row * stride, 1.0f / total[row], a.head_dim, out + row * a.out.token_stride);
        lse[row] = maximum[row] * a.scale + std::log(total[row]);
    }
}

}  // namespace

void avx2::attend(const Attention& a) {
    in_parallel<Forward>(a, a.batch * a.heads * ((a.queries + QUERIES - 1) / QUERIES), a.threads);
}

}  // namespace intaglio::attention
