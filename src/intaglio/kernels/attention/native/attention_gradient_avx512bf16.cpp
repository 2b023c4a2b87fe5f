// Attention backward. Every sum has one order, whatever the number of threads: a task is a head, or where there are more
// threads than heads, a range of its keys for dK and dV, or of its queries for dQ, which makes P and dS twice.
//
// For a block of keys in the lanes and tiles of queries in the rows, S = Q K^T and dP = dO V^T are made anew; from them
// P = exp(scale S - lse) and dS = P (dP - D), D = sum of dO * O. Then dV^T += dO^T P and dK^T += Q^T dS with channels in the
// rows, and dQ += dS K with queries in the rows and channels in the lanes. Sums are float32.

#include <cmath>
#include <cstring>

#include "attention/native/attention_sets.h"
#include "attention/native/attention_pack.h"
#include "attention/native/attention_scratch.h"

namespace intaglio::attention {
namespace {

constexpr int64_t KEYS = 2 * WIDE;      // of a block
constexpr int64_t QUERIES = 8 * ROWS;  // of a block: its weights stay in the L1 cache
constexpr float LOG2_E = 1.44269504f;

const uint16_t* head_of(const Tokens& x, int64_t batch, int64_t head) {
    return x.data + batch * x.batch_stride + head * x.head_stride;
}
uint16_t* head_of(Tokens& x, int64_t batch, int64_t head) { return x.data + batch * x.batch_stride + head * x.head_stride; }

struct Range {
    int64_t start, end;
    // The i-th of `count` parts of 0 .. size - 1, cut between blocks.
    static Range part(int64_t size, int64_t block, int64_t i, int64_t count) {
        const int64_t blocks = ceil_div(size, block);
        return {std::min(i * blocks / count * block, size), std::min((i + 1) * blocks / count * block, size)};
    }
};

// How the columns of a block of keys, or of channels, are cut in panels of one or two vectors.
struct Panel {
    int64_t start, vectors;
    int64_t width() const { return vectors * LANES; }
    Panel(int64_t at, int64_t size) : start(at), vectors(size - at > LANES ? 2 : 1) {}
};

// Tokens packed in both directions: tiles of tokens by pairs of channels, and tiles of channels by pairs of tokens.
struct Packed {
    Pair *by_token, *by_channel;
    Packed(Scratch& scratch, int64_t tokens, int64_t channels)
        : by_token(scratch.take<Pair>(ceil_div(tokens, ROWS) * ROWS * ceil_div(channels, 2))),
          by_channel(scratch.take<Pair>(ceil_div(tokens, 2) * channels)) {}
    void pack(const uint16_t* x, int64_t stride, int64_t tokens, int64_t channels, const Cut& cut) {
        for (int64_t t = 0; t < tokens; t += ROWS)
            pack_columns(x + t * stride, stride, std::min<int64_t>(ROWS, tokens - t), channels, by_token + t * ceil_div(channels, 2),
                         ROWS, ROWS);
        for (int64_t i = 0; i < cut.count; ++i)
            pack_rows(x + cut.start(i), stride, tokens, cut.rows(i), by_channel + cut.start(i) * ceil_div(tokens, 2), cut.rows(i),
                      cut.rows(i));
    }
};

struct Backward {
    AttentionGradient g;
    const Attention& a;
    int64_t d, channel_pairs, query_pairs, wide_d;
    Cut channels;
    Packed q, grad_out;
    float *offset, *lse_log2, *grad_q, *grad_kt, *grad_vt, *scores, *grad_weights;
    bool with_keys = true, with_queries = true;
    Pair *kt, *vt, *k_pairs, *weights, *grad_scores, *grad_score_rows;

    Backward(const AttentionGradient& gradient, Scratch& scratch)
        : g(gradient), a(*gradient.forward), d(a.head_dim), channel_pairs(ceil_div(d, 2)), query_pairs(ceil_div(a.queries, 2)),
          wide_d(ceil_div(d, LANES) * LANES), channels(d), q(scratch, a.queries, d), grad_out(scratch, a.queries, d) {
        offset = scratch.take<float>(a.queries);
        lse_log2 = scratch.take<float>(a.queries);
        grad_q = scratch.take<float>(a.queries * wide_d);
        grad_kt = scratch.take<float>(d * KEYS);
        grad_vt = scratch.take<float>(d * KEYS);
        scores = scratch.take<float>(ROWS * WIDE);
        grad_weights = scratch.take<float>(ROWS * WIDE);
        kt = scratch.take<Pair>(channel_pairs * KEYS);
        vt = scratch.take<Pair>(channel_pairs * KEYS);
        k_pairs = scratch.take<Pair>(KEYS / 2 * wide_d);
        weights = scratch.take<Pair>(QUERIES / 2 * KEYS);
        grad_scores = scratch.take<Pair>(QUERIES / 2 * KEYS);
        grad_score_rows = scratch.take<Pair>(QUERIES * KEYS / 2);
    }

    // A head is cut in `parts` for the keys, and as many for the queries; one part does both at once.
    static int64_t parts(const Attention& a) { return a.threads * 2 < a.batch * a.heads * 3 ? 1 : ceil_div(a.threads, a.batch * a.heads); }

    void run(int64_t task, bool) {
        const int64_t cut = parts(a), of_head = cut == 1 ? 1 : 2 * cut, part = task % of_head, head = task / of_head;
        Range keys{0, a.keys}, queries{0, a.queries};
        with_keys = part < cut;
        with_queries = cut == 1 || part >= cut;
        if (!with_queries) keys = Range::part(a.keys, KEYS, part, cut);
        if (!with_keys) queries = Range::part(a.queries, QUERIES, part - cut, cut);
        run(head / a.heads, head % a.heads, keys, queries);
    }

    void run(int64_t batch, int64_t head, Range keys, Range queries) {
        if (keys.start >= keys.end || queries.start >= queries.end) return;
        pack_queries(batch, head, queries);
        for (int64_t key = keys.start; key < keys.end; key += KEYS) {
            const int64_t count = std::min<int64_t>(KEYS, keys.end - key);
            pack_keys(batch, head, key, count);
            for (int64_t query = 0; query < queries.end - queries.start; query += QUERIES)
                block(query, std::min<int64_t>(QUERIES, queries.end - queries.start - query), count);
            if (with_keys) store_keys(batch, head, key, count);
        }
        if (with_queries) store_queries(batch, head, queries);
    }

    void pack_queries(int64_t batch, int64_t head, Range queries);
    void pack_keys(int64_t batch, int64_t head, int64_t key, int64_t count);
    void block(int64_t query, int64_t queries, int64_t keys);
    void add_grad_q(int64_t query, int64_t row, int64_t rows, int64_t keys);
    void add_grad_k_and_v(int64_t query, int64_t queries, int64_t keys);
    void store_keys(int64_t batch, int64_t head, int64_t key, int64_t count);
    void store_queries(int64_t batch, int64_t head, Range queries);
};

__m512 widen(__m256i bf16) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16)); }

float dot(const uint16_t* x, const uint16_t* y, int64_t n) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += LANES) {
        const __mmask16 there = first16(n - i);
        sum = _mm512_fmadd_ps(widen(_mm256_maskz_loadu_epi16(there, x + i)), widen(_mm256_maskz_loadu_epi16(there, y + i)), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

void Backward::pack_queries(int64_t batch, int64_t head, Range queries) {
    const int64_t start = queries.start, count = queries.end - start;
    const uint16_t* grad = head_of(g.grad_out, batch, head) + start * g.grad_out.token_stride;
    const uint16_t* out = head_of(a.out, batch, head) + start * a.out.token_stride;
    q.pack(head_of(a.q, batch, head) + start * a.q.token_stride, a.q.token_stride, count, d, channels);
    grad_out.pack(grad, g.grad_out.token_stride, count, d, channels);
    const float* lse = a.lse + (batch * a.heads + head) * a.queries + start;
    query_pairs = ceil_div(count, 2);
    for (int64_t i = 0; i < count; ++i) {
        offset[i] = dot(grad + i * g.grad_out.token_stride, out + i * a.out.token_stride, d);
        lse_log2[i] = lse[i] * LOG2_E;
    }
    std::memset(grad_q, 0, count * wide_d * sizeof(float));
}

void Backward::pack_keys(int64_t batch, int64_t head, int64_t key, int64_t count) {
    const int64_t k_stride = a.k.token_stride, v_stride = a.v.token_stride;
    const uint16_t* k = head_of(a.k, batch, head) + key * k_stride;
    const uint16_t* v = head_of(a.v, batch, head) + key * v_stride;
    for (int64_t start = 0; start < count; start += WIDE) {
        const Panel panel(start, count);
        for (int64_t lane = 0; lane < panel.width(); lane += LANES) {
            const int64_t at = start * channel_pairs + lane, row = start + lane;
            pack_columns(k + row * k_stride, k_stride, count - row, d, kt + at, panel.width(), LANES);
            pack_columns(v + row * v_stride, v_stride, count - row, d, vt + at, panel.width(), LANES);
        }
    }
    for (int64_t start = 0; start < d; start += WIDE) {
        const Panel panel(start, d);
        for (int64_t lane = 0; lane < panel.width(); lane += LANES)
            pack_rows(k + start + lane, k_stride, count, d - start - lane, k_pairs + start * KEYS / 2 + lane, panel.width(), LANES);
    }
    std::memset(grad_kt, 0, d * KEYS * sizeof(float));
    std::memset(grad_vt, 0, d * KEYS * sizeof(float));
}

struct Softened {
    Pair *weights, *grad_scores, *grad_score_rows;
};

// P and dS of a tile, in pairs of queries; dS in pairs of keys too. Lanes without a key become 0, and so does the query
// that an odd last one is paired with.
template <int V>
[[gnu::noinline]] void soften(const float* scores, const float* grad_weights, int64_t queries, int64_t keys, float scale_log2,
                              const float* lse_log2, const float* offset, Softened to) {
    const __m512 scale = _mm512_set1_ps(scale_log2);
    for (int64_t row = 0; row < queries; row += 2) {
        const bool both = row + 1 < queries;
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
            const __mmask16 there = first16(keys - v * LANES);
            __m512 p[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, ds[2] = {p[0], p[0]};
#pragma GCC unroll 2
            for (int i = 0; i < 2; ++i) {
                if (i && !both) break;
                const int64_t at = (row + i) * V * LANES + v * LANES;
                const __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(scores + at), scale, _mm512_set1_ps(lse_log2[row + i]));
                p[i] = _mm512_maskz_mov_ps(there, exp2(x));
                const __m512 dp = _mm512_sub_ps(_mm512_loadu_ps(grad_weights + at), _mm512_set1_ps(offset[row + i]));
                ds[i] = _mm512_mul_ps(p[i], dp);
            }
            const int64_t at = row / 2 * V * LANES + v * LANES;
            _mm512_storeu_si512(to.weights + at, pairs(p[0], p[1]));
            _mm512_storeu_si512(to.grad_scores + at, pairs(ds[0], ds[1]));
            Pair* line = to.grad_score_rows + row * KEYS / 2 + v * LANES / 2;
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(line), (__m256i)_mm512_cvtneps_pbh(ds[0]));
            if (both) _mm256_storeu_si256(reinterpret_cast<__m256i*>(line + KEYS / 2), (__m256i)_mm512_cvtneps_pbh(ds[1]));
        }
    }
}

void Backward::block(int64_t query, int64_t queries, int64_t keys) {
    for (int64_t row = 0; row < queries; row += ROWS) {
        const int64_t rows = std::min<int64_t>(ROWS, queries - row);
        for (int64_t start = 0; start < keys; start += WIDE) {
            const Panel panel(start, keys);
            const auto product = tile_of<1, Then::STORE>(rows, panel.vectors);
            const int64_t at = start * channel_pairs;
            product(q.by_token + (query + row) * channel_pairs, ROWS, kt + at, channel_pairs, scores, panel.width(), nullptr);
            product(grad_out.by_token + (query + row) * channel_pairs, ROWS, vt + at, channel_pairs, grad_weights, panel.width(), nullptr);
            const int64_t pair = start * QUERIES / 2 + row / 2 * panel.width();
            (panel.vectors == 2 ? soften<2> : soften<1>)(
                scores, grad_weights, rows, keys - start, a.scale * LOG2_E, lse_log2 + query + row, offset + query + row,
                {weights + pair, grad_scores + pair, grad_score_rows + row * KEYS / 2 + start / 2});
        }
        if (with_queries) add_grad_q(query, row, rows, keys);
    }
    if (with_keys) add_grad_k_and_v(query, queries, keys);
}

void Backward::add_grad_q(int64_t query, int64_t row, int64_t rows, int64_t keys) {
    for (int64_t start = 0; start < d; start += WIDE) {
        const Panel panel(start, d);
        tile_of<KEYS / 2, Then::ADD>(rows, panel.vectors)(grad_score_rows + row * KEYS / 2, 1, k_pairs + start * KEYS / 2, ceil_div(keys, 2),
                                                          grad_q + (query + row) * wide_d + start, wide_d, nullptr);
    }
}

void Backward::add_grad_k_and_v(int64_t query, int64_t queries, int64_t keys) {
    for (int64_t i = 0; i < channels.count; ++i) {
        const int64_t first = channels.start(i), rows = channels.rows(i);
        const int64_t packed = first * query_pairs + query / 2 * rows;
        for (int64_t start = 0; start < keys; start += WIDE) {
            const Panel panel(start, keys);
            const auto add = tile_of<1, Then::ADD>(rows, panel.vectors);
            const int64_t pair = start * QUERIES / 2, to = first * KEYS + start;
            add(grad_out.by_channel + packed, rows, weights + pair, ceil_div(queries, 2), grad_vt + to, KEYS, nullptr);
            add(q.by_channel + packed, rows, grad_scores + pair, ceil_div(queries, 2), grad_kt + to, KEYS, nullptr);
        }
    }
}

void Backward::store_keys(int64_t batch, int64_t head, int64_t key, int64_t count) {
    const __m512 scale = _mm512_set1_ps(a.scale), one = _mm512_set1_ps(1.0f);
    for (int64_t lane = 0; lane < count; lane += LANES) {
        const int64_t lanes = std::min<int64_t>(LANES, count - lane);
        store_transposed(grad_kt + lane, KEYS, d, scale, head_of(g.grad_k, batch, head) + (key + lane) * g.grad_k.token_stride,
                         g.grad_k.token_stride, lanes);
        store_transposed(grad_vt + lane, KEYS, d, one, head_of(g.grad_v, batch, head) + (key + lane) * g.grad_v.token_stride,
                         g.grad_v.token_stride, lanes);
    }
}

void Backward::store_queries(int64_t batch, int64_t head, Range queries) {
    uint16_t* to = head_of(g.grad_q, batch, head) + queries.start * g.grad_q.token_stride;
    const __m512 scale = _mm512_set1_ps(a.scale);
    for (int64_t i = 0; i < queries.end - queries.start; ++i)
        for (int64_t c = 0; c < d; c += LANES) {
            const __m512 value = _mm512_mul_ps(_mm512_loadu_ps(grad_q + i * wide_d + c), scale);
            _mm256_mask_storeu_epi16(to + i * g.grad_q.token_stride + c, first16(d - c), (__m256i)_mm512_cvtneps_pbh(value));
        }
}

}  // namespace

void avx512bf16::gradient(const AttentionGradient& g) {
    const Attention& a = *g.forward;
    const int64_t parts = Backward::parts(a);
    in_parallel<Backward>(g, a.batch * a.heads * (parts == 1 ? 1 : 2 * parts), a.threads);
}

}  // namespace intaglio::attention
