// Attention backward for AVX2, a head at a time: its scores are made once, so no thread helps another with a head.

#include "attention/native/attention_avx2.h"

namespace intaglio::attention {
namespace {

struct Backward {
    const AttentionGradient& g;
    const Attention& a;
    int64_t d, stride, panel;
    // Of the head: queries, their gradients, those of the result. Of a block of keys: both ways round, and sums.
    float *q, *grad_out, *grad_q, *k, *kt, *vt, *grad_k, *grad_v;
    float *lse_log2, *offset;     // by query: what is taken off a score in base 2, and D
    float *weights, *grad_scores;  // of a block

    Backward(const AttentionGradient& gradient, Scratch& scratch)
        : g(gradient), a(*gradient.forward), d(a.head_dim), stride(odd_lines(d)), panel(panel_size(d)) {
        for (float** rows : {&q, &grad_out, &grad_q}) *rows = scratch.take<float>(a.queries * stride);
        for (float** rows : {&k, &grad_k, &grad_v}) *rows = scratch.take<float>(KEYS * stride);
        for (float** panels : {&kt, &vt}) *panels = scratch.take<float>(KEYS / PANEL * panel);
        for (float** by_query : {&lse_log2, &offset}) *by_query = scratch.take<float>(a.queries);
        for (float** block : {&weights, &grad_scores}) *block = scratch.take<float>(QUERIES * SCORES);
    }

    void run(int64_t task, bool) {
        const int64_t batch = task / a.heads, head = task % a.heads;
        widen_rows(a.q, batch, head, 0, a.queries, d, q);
        widen_rows(g.grad_out, batch, head, 0, a.queries, d, grad_out);
        make_offsets(batch, head);
        for (int64_t key = 0; key < a.keys; key += KEYS) of_keys(batch, head, key, std::min(KEYS, a.keys - key));
        for (int64_t i = 0; i < a.queries; ++i)
            narrow_row(grad_q + i * stride, a.scale, d, to(g.grad_q, batch, head) + i * g.grad_q.token_stride);
    }

    static uint16_t* to(const Tokens& x, int64_t batch, int64_t head) {
        return x.data + batch * x.batch_stride + head * x.head_stride;
    }

    void make_offsets(int64_t batch, int64_t head);
    void of_keys(int64_t batch, int64_t head, int64_t key, int64_t count);
    void soften(int64_t query, int64_t rows, int64_t keys);
};

void Backward::make_offsets(int64_t batch, int64_t head) {
    const uint16_t* out = head_of(a.out, batch, head);
    const float* lse = a.lse + (batch * a.heads + head) * a.queries;
    for (int64_t i = 0; i < a.queries; ++i) {
        __m256 sum = _mm256_setzero_ps();
        for (int64_t c = 0; c < d; c += EIGHT)
            sum = _mm256_fmadd_ps(load8(out + i * a.out.token_stride + c, d - c), load8(grad_out + i * stride + c), sum);
        offset[i] = sum_of(sum);
        lse_log2[i] = lse[i] * LOG2_E;
    }
}

// P = 2^(scale log2 e S - lse log2 e) and dS = P (dP - D), in place of S and dP. Columns past the keys are not used.
void Backward::soften(int64_t query, int64_t rows, int64_t keys) {
    const __m256 by = _mm256_set1_ps(a.scale * LOG2_E);
    for (int64_t row = 0; row < rows; ++row) {
        const __m256 lse = _mm256_set1_ps(lse_log2[query + row]), mean = _mm256_set1_ps(offset[query + row]);
        float *s = weights + row * SCORES, *ds = grad_scores + row * SCORES;
        for (int64_t k = 0; k < keys; k += EIGHT) {
            const __m256 p = exp2(_mm256_fmsub_ps(load8(s + k), by, lse));
            store8(ds + k, _mm256_mul_ps(p, _mm256_sub_ps(load8(ds + k), mean)));
            store8(s + k, p);
        }
    }
}

void Backward::of_keys(int64_t batch, int64_t head, int64_t key, int64_t count) {
    const uint16_t* keys = head_of(a.k, batch, head) + key * a.k.token_stride;
    const uint16_t* values = head_of(a.v, batch, head) + key * a.v.token_stride;
    widen_rows(a.k, batch, head, key, count, d, k);
    pack_transposed(keys, a.k.token_stride, count, d, kt);
    pack_transposed(values, a.v.token_stride, count, d, vt);
    for (int64_t query = 0; query < a.queries; query += QUERIES) {
        const int64_t rows = std::min(QUERIES, a.queries - query), at = query * stride;
        multiply({q + at, stride, 1}, {kt, PANEL, panel}, rows, count, d, weights, SCORES, false);
        multiply({grad_out + at, stride, 1}, {vt, PANEL, panel}, rows, count, d, grad_scores, SCORES, false);
        soften(query, rows, count);
        multiply({grad_scores, SCORES, 1}, {k, stride, PANEL}, rows, d, count, grad_q + at, stride, key > 0);
        multiply({weights, 1, SCORES}, {grad_out + at, stride, PANEL}, count, d, rows, grad_v, stride, query > 0);
        multiply({grad_scores, 1, SCORES}, {q + at, stride, PANEL}, count, d, rows, grad_k, stride, query > 0);
    }
    for (int64_t i = 0; i < count; ++i) {
        narrow_row(grad_k + i * stride, a.scale, d, to(g.grad_k, batch, head) + (key + i) * g.grad_k.token_stride);
        narrow_row(grad_v + i * stride, 1.0f, d, to(g.grad_v, batch, head) + (key + i) * g.grad_v.token_stride);
    }
}

}  // namespace

void avx2::gradient(const AttentionGradient& g) {
    const Attention& a = *g.forward;
    in_parallel<Backward>(g, a.batch * a.heads, a.threads);
}

}  // namespace intaglio::attention
