// Attention forward: blocks of queries in the lanes, keys and then channels in the rows of the tiles.
//
// A head's keys and values are packed once by each thread that works on it. For a block of queries S^T = K Q^T is made for a
// block of keys, turned into P^T with the running maximum, and O^T = V^T P^T is added up in float32. Neither the axis of
// channels nor that of keys lies in the lanes, so no head size and no number of keys is padded beyond a pair.

#include <cmath>

#include "attention/native/attention_sets.h"
#include "attention/native/attention_pack.h"
#include "attention/native/attention_scratch.h"
#include "attention/native/attention_soften.h"

namespace intaglio::attention {
namespace {

constexpr int64_t KEYS = 8 * ROWS;  // a block of scores stays in the L1 cache
static_assert(KEYS % 2 == 0);

struct Forward {
    const Attention& a;
    int64_t channel_pairs, key_pairs;
    Cut channels;
    Pair *keys, *values, *queries, *weights;  // values: for each tile of channels [pair of keys][channel]
    float *scores, *sums;

    Forward(const Attention& attention, Scratch& scratch)
        : a(attention), channel_pairs(ceil_div(a.head_dim, 2)), key_pairs(ceil_div(a.keys, 2)), channels(a.head_dim) {
        keys = scratch.take<Pair>(ceil_div(a.keys, ROWS) * ROWS * channel_pairs);
        values = scratch.take<Pair>(key_pairs * a.head_dim);
        queries = scratch.take<Pair>(WIDE * channel_pairs);
        weights = scratch.take<Pair>(WIDE * KEYS / 2);
        scores = scratch.take<float>(WIDE * KEYS);
        sums = scratch.take<float>(WIDE * a.head_dim);
    }

    void pack(int64_t batch, int64_t head) {
        const uint16_t* k = a.k.data + batch * a.k.batch_stride + head * a.k.head_stride;
        const uint16_t* v = a.v.data + batch * a.v.batch_stride + head * a.v.head_stride;
        for (int64_t key = 0; key < a.keys; key += ROWS)
            pack_columns(k + key * a.k.token_stride, a.k.token_stride, std::min<int64_t>(ROWS, a.keys - key), a.head_dim,
                         keys + key * channel_pairs, ROWS, ROWS);
        for (int64_t i = 0; i < channels.count; ++i)
            pack_rows(v + channels.start(i), a.v.token_stride, a.keys, channels.rows(i),
                      values + channels.start(i) * key_pairs, channels.rows(i), channels.rows(i));
    }

    void run(int64_t task, bool first) {
        const int64_t blocks = ceil_div(a.queries, WIDE), head = task / blocks, query = task % blocks * WIDE;
        if (first || query == 0) pack(head / a.heads, head % a.heads);
        block(head / a.heads, head % a.heads, query, std::min<int64_t>(WIDE, a.queries - query));
    }

    void block(int64_t batch, int64_t head, int64_t query, int64_t count);
};

void Forward::block(int64_t batch, int64_t head, int64_t query, int64_t count) {
    const int64_t vectors = count > LANES ? 2 : 1, width = vectors * LANES;
    const uint16_t* q = a.q.data + batch * a.q.batch_stride + head * a.q.head_stride + query * a.q.token_stride;
    for (int64_t lane = 0; lane < width; lane += LANES)
        pack_columns(q + lane * a.q.token_stride, a.q.token_stride, count - lane, a.head_dim, queries + lane, width, LANES);
    Running running;
    alignas(64) float scale_log2[WIDE];
    std::fill(scale_log2, scale_log2 + WIDE, std::max(a.scale, LEAST_SCALE) * 1.44269504f);
    const int64_t tiles = ceil_div(a.keys, ROWS), blocks = ceil_div(a.keys, KEYS);
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t start = block * tiles / blocks * ROWS, end = std::min((block + 1) * tiles / blocks * ROWS, a.keys);
        const int64_t here = end - start, even = ceil_div(here, 2) * 2;
        for (int64_t key = 0; key < here; key += ROWS)
            tile_of<1, Then::STORE>(std::min<int64_t>(ROWS, here - key), vectors)(
                keys + (start + key) * channel_pairs, ROWS, queries, channel_pairs, scores + key * width, width, nullptr);
        if (even > here) std::fill(scores + here * width, scores + even * width, -INFINITY);
        (vectors == 2 ? soften<2, Bfloat16Weights> : soften<1, Bfloat16Weights>)(scores, even, scale_log2, running, weights);
        for (int64_t i = 0; i < channels.count; ++i) {
            const int64_t first = channels.start(i), rows = channels.rows(i);
            const auto add = start ? tile_of<1, Then::RESCALE>(rows, vectors) : tile_of<1, Then::STORE>(rows, vectors);
            add(values + first * key_pairs + start / 2 * rows, rows, weights, even / 2, sums + first * width, width, running.factor);
        }
    }
    uint16_t* out = a.out.data + batch * a.out.batch_stride + head * a.out.head_stride + query * a.out.token_stride;
    for (int64_t lane = 0; lane < width; lane += LANES) {
        const __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_loadu_ps(running.total + lane));
        store_transposed(sums + lane, width, a.head_dim, inverse, out + lane * a.out.token_stride, a.out.token_stride,
                         std::min<int64_t>(LANES, count - lane));
    }
    float* lse = a.lse + (batch * a.heads + head) * a.queries + query;
    for (int64_t i = 0; i < count; ++i) lse[i] = running.maximum[i] * a.scale + std::log(running.total[i]);
}

}  // namespace
void avx512bf16::attend(const Attention& a) {
    in_parallel<Forward>(a, a.batch * a.heads * ceil_div(a.queries, WIDE), a.threads);
}

}  // namespace intaglio::attention
