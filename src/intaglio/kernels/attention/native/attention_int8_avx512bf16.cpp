// Attention forward with both products in INT8: `attention.cpp` with quads of four codes in place of pairs.
//
// Queries and keys have one scale a token, values one a channel and head, each max / 127; the weights, between 0 and the 1 of
// the largest so far, are rounded to 255ths. Sums of a block of keys are exact in int32 and meet in float32.

#include <cmath>
#include <cstring>

#include "attention/native/attention_sets.h"
#include "attention/native/attention_pack.h"
#include "attention/native/attention_scratch.h"
#include "attention/native/attention_soften.h"

namespace intaglio::attention {
namespace {

using Quad = Pair;  // four codes that are neighbours on the axis that is summed over

constexpr int64_t KEYS = 16 * ROWS;
constexpr int64_t STEP = 2 * ROWS;  // blocks begin at multiples of a tile and of a quad
static_assert(KEYS % STEP == 0 && STEP % 4 == 0);
constexpr int64_t ROW = 256;         // bytes of one token's codes
constexpr float SMALLEST = 0x1p-119f;  // 127 / SMALLEST is finite; what is smaller counts as zero

// sum over steps of a[s][row], signed, times b[s][lane], unsigned. It stores integers: beside a conversion GCC would spill.
template <int R, int V>
[[gnu::noinline]] void tile(const Quad* a, int64_t a_step, const Quad* b, int64_t steps, int32_t* c) {
    __m512i sum[R][V];
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[r][v] = _mm512_setzero_si512();
#pragma GCC unroll 1
    for (int64_t s = 0; s < steps; ++s, a += a_step, b += V * LANES) {
        __m512i lanes[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) lanes[v] = _mm512_loadu_si512(b + v * LANES);
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r) {
            const __m512i row = _mm512_set1_epi32(static_cast<int>(a[r]));
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], lanes[v], row);
        }
    }
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) _mm512_storeu_si512(c + (r * V + v) * LANES, sum[r][v]);
}

using IntegerTile = void (*)(const Quad*, int64_t, const Quad*, int64_t, int32_t*);

template <int V, int... R>
constexpr std::array<IntegerTile, ROWS> integer_tiles(std::integer_sequence<int, R...>) {
    return {tile<R + 1, V>...};
}

IntegerTile integer_tile(int64_t rows, int64_t vectors) {
    using Rows = std::make_integer_sequence<int, ROWS>;
    static constexpr std::array<IntegerTile, ROWS> narrow = integer_tiles<1>(Rows()), wide = integer_tiles<2>(Rows());
    return (vectors == 2 ? wide : narrow)[rows - 1];
}

// Four vectors of int32 -> one of quads; `Unsigned` codes are 0 to 255, others -128 to 127. What does not fit is saturated.
template <bool Unsigned>
__m512i quads(const __m512i* x) {
    const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i low = _mm512_packs_epi32(x[0], x[1]), high = _mm512_packs_epi32(x[2], x[3]);
    return _mm512_shuffle_epi8(Unsigned ? _mm512_packus_epi16(low, high) : _mm512_packs_epi16(low, high), order);
}

struct IntegerWeights {
    static constexpr int KEYS = 4;
    static constexpr float LOG2_OF_ONE = 7.99435344f;  // of 255
    static __m512i pack(const __m512* p) {
        const __m512i codes[4] = {_mm512_cvtps_epi32(p[0]), _mm512_cvtps_epi32(p[1]), _mm512_cvtps_epi32(p[2]), _mm512_cvtps_epi32(p[3])};
        return quads<true>(codes);
    }
};

__m512 widen(__m256i bf16) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16)); }

// From the bits of the largest |x|: the scale, NaN where something is not finite, and what to multiply by.
struct Scale {
    float scale = 1, inverse = 0;
    explicit Scale(uint32_t top) {
        const uint32_t bits = top << 16;
        float value;
        std::memcpy(&value, &bits, 4);
        if (top >= 0x7f80) scale = NAN;
        else if (value >= SMALLEST) scale = value / 127.0f, inverse = 127.0f / value;
    }
};

// Ask for rows that are soon needed: those of a head lie too far apart for the processor to foresee them.
void prefetch(const uint16_t* x, int64_t stride, int64_t rows, int64_t columns) {
    for (int64_t row = 0; row < rows; ++row, x += stride) {
        for (int64_t c = 0; c < columns; c += WIDE) __builtin_prefetch(x + c);
        __builtin_prefetch(x + columns - 1);
    }
}

struct Row {
    float scale;
    int32_t sum;  // of the codes
};

// One token of d channels -> signed codes, zeros up to a multiple of 16.
Row quantize(const uint16_t* x, int64_t d, int8_t* codes) {
    __m512i top = _mm512_setzero_si512(), sum = _mm512_setzero_si512();
    for (int64_t c = 0; c < d; c += WIDE)
        top = _mm512_max_epu16(top, _mm512_and_si512(_mm512_maskz_loadu_epi16(first32(d - c), x + c), _mm512_set1_epi16(0x7fff)));
    const __m512i high = _mm512_srli_epi32(top, 16), low = _mm512_and_si512(top, _mm512_set1_epi32(0xffff));
    const Scale scale(static_cast<uint32_t>(_mm512_reduce_max_epu32(_mm512_max_epu32(high, low))));
    const bool finite = scale.scale == scale.scale;
    for (int64_t c = 0; c < d; c += LANES) {
        const __m512 value = widen(_mm256_maskz_loadu_epi16(finite ? first16(d - c) : 0, x + c));
        const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(value, _mm512_set1_ps(scale.inverse)));
        sum = _mm512_add_epi32(sum, code);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + c), _mm512_cvtepi32_epi8(code));
    }
    return {scale.scale, _mm512_reduce_add_epi32(sum)};
}

// Integer sums of a tile -> scores by key's scale, in place. Queries are offset by 128, which the sum of a key's codes undoes.
[[gnu::noinline]] void to_scores(void* sums, const float* scale, const float* offset, int64_t rows, int64_t vectors) {
    char* at = static_cast<char*>(sums);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t v = 0; v < vectors; ++v, at += 64) {
            const __m512 x = _mm512_cvtepi32_ps(_mm512_loadu_si512(at));
            _mm512_storeu_ps(at, _mm512_fmadd_ps(x, _mm512_set1_ps(scale[r]), _mm512_set1_ps(offset[r])));
        }
}

// sums = sums * factor[lane] + the integer sums of a tile; the first block begins from 0.
[[gnu::noinline]] void add(const int32_t* more, int64_t rows, int64_t vectors, const float* factor, bool first, float* sums) {
    for (int64_t v = 0; v < vectors; ++v) {
        const __m512 by = _mm512_loadu_ps(factor + v * LANES);
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t at = (r * vectors + v) * LANES;
            const __m512 x = _mm512_cvtepi32_ps(_mm512_loadu_si512(more + at));
            _mm512_storeu_ps(sums + at, first ? x : _mm512_fmadd_ps(_mm512_loadu_ps(sums + at), by, x));
        }
    }
}

struct IntegerForward {
    const Attention& a;
    int64_t d, channel_quads, key_quads;
    Cut channels;
    Quad *keys, *values, *queries, *weights;
    float *key_scale, *key_offset, *value_scale, *scores, *sums;
    int32_t* part;
    int8_t* codes;  // of up to 16 tokens, row by row

    IntegerForward(const Attention& attention, Scratch& scratch)
        : a(attention), d(a.head_dim), channel_quads(ceil_div(d, 4)), key_quads(ceil_div(a.keys, 4)), channels(d) {
        const int64_t whole_tiles = ceil_div(a.keys, ROWS) * ROWS;
        keys = scratch.take<Quad>(whole_tiles * channel_quads);
        values = scratch.take<Quad>(key_quads * d);
        queries = scratch.take<Quad>(WIDE * channel_quads);
        weights = scratch.take<Quad>(WIDE * KEYS / 4);
        key_scale = scratch.take<float>(whole_tiles);
        key_offset = scratch.take<float>(whole_tiles);
        value_scale = scratch.take<float>(d);
        scores = scratch.take<float>(WIDE * KEYS);
        sums = scratch.take<float>(WIDE * d);
        part = scratch.take<int32_t>(WIDE * ROWS);
        codes = scratch.take<int8_t>(LANES * ROW);
    }

    void run(int64_t task, bool first) {
        const int64_t blocks = ceil_div(a.queries, WIDE), head = task / blocks, query = task % blocks * WIDE;
        if (first || query == 0) {
            pack_keys(a.k, head / a.heads, head % a.heads);
            pack_values(a.v.data + head / a.heads * a.v.batch_stride + head % a.heads * a.v.head_stride);
        }
        block(head / a.heads, head % a.heads, query, std::min<int64_t>(WIDE, a.queries - query));
    }

    // The codes of `rows` tokens in quads of channels.
    void pack_codes(int64_t rows, Quad* to, int64_t step, int64_t lanes) {
        pack_columns(reinterpret_cast<const uint16_t*>(codes), ROW / 2, rows, 2 * channel_quads, to, step, lanes);
    }
    void pack_keys(const Tokens& k, int64_t batch, int64_t head);
    void pack_values(const uint16_t* v);
    void pack_queries(const uint16_t* q, int64_t count, int64_t width, float* scale);
    void block(int64_t batch, int64_t head, int64_t query, int64_t count);
    void add_values(int64_t start, int64_t count, int64_t vectors, const float* factor);
    void store(int64_t batch, int64_t head, int64_t query, int64_t count, int64_t vectors, const Running& running, const float* scale);
};

void IntegerForward::pack_keys(const Tokens& k, int64_t batch, int64_t head) {
    const uint16_t* x = k.data + batch * k.batch_stride + head * k.head_stride;
    for (int64_t key = 0; key < a.keys; key += ROWS) {
        const int64_t rows = std::min<int64_t>(ROWS, a.keys - key);
        if (key == 0) prefetch(x, k.token_stride, rows, d);
        prefetch(x + (key + ROWS) * k.token_stride, k.token_stride, std::min<int64_t>(ROWS, a.keys - key - ROWS), d);
        prefetch(a.v.data + batch * a.v.batch_stride + head * a.v.head_stride + key * a.v.token_stride, a.v.token_stride, rows, d);
        for (int64_t r = 0; r < rows; ++r) {
            const Row row = quantize(x + (key + r) * k.token_stride, d, codes + r * ROW);
            key_scale[key + r] = row.scale;
            key_offset[key + r] = -128.0f * static_cast<float>(row.sum) * row.scale;
        }
        pack_codes(rows, keys + key * channel_quads, ROWS, ROWS);
    }
}

void IntegerForward::pack_values(const uint16_t* v) {
    const int64_t stride = a.v.token_stride;
    for (int64_t i = 0; i < channels.count; ++i) {
        const int64_t first = channels.start(i), width = channels.rows(i);
        const __mmask16 there = first16(width);
        __m256i top = _mm256_setzero_si256();
        for (int64_t key = 0; key < a.keys; ++key) {
            const __m256i x = _mm256_maskz_loadu_epi16(there, v + key * stride + first);
            top = _mm256_max_epu16(top, _mm256_and_si256(x, _mm256_set1_epi16(0x7fff)));
        }
        alignas(64) uint16_t bits[LANES];
        alignas(64) float inverse[LANES] = {};
        _mm256_store_si256(reinterpret_cast<__m256i*>(bits), top);
        for (int64_t c = 0; c < width; ++c) {
            const Scale scale(bits[c]);
            value_scale[first + c] = scale.scale;
            inverse[c] = scale.inverse;
        }
        Quad* to = values + first * key_quads;
        for (int64_t key = 0; key < a.keys; key += 4, to += width) {
            __m512i code[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const __m512 x = widen(_mm256_maskz_loadu_epi16(key + j < a.keys ? there : 0, v + (key + j) * stride + first));
                code[j] = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_load_ps(inverse)));
            }
            _mm512_mask_storeu_epi32(to, there, quads<false>(code));
        }
    }
}

void IntegerForward::pack_queries(const uint16_t* q, int64_t count, int64_t width, float* scale) {
    for (int64_t lane = 0; lane < width; lane += LANES) {
        const int64_t rows = std::min<int64_t>(LANES, count - lane);
        for (int64_t r = 0; r < LANES; ++r) {
            scale[lane + r] = r < rows ? quantize(q + (lane + r) * a.q.token_stride, d, codes + r * ROW).scale : 1.0f;
            for (int64_t c = 0; r < rows && c < d; c += LANES) {
                __m128i* at = reinterpret_cast<__m128i*>(codes + r * ROW + c);
                _mm_storeu_si128(at, _mm_xor_si128(_mm_loadu_si128(at), _mm_set1_epi8(-128)));
            }
        }
        pack_codes(rows, queries + lane, width, LANES);
    }
}

void IntegerForward::block(int64_t batch, int64_t head, int64_t query, int64_t count) {
    const int64_t vectors = count > LANES ? 2 : 1, width = vectors * LANES;
    const uint16_t* q = a.q.data + batch * a.q.batch_stride + head * a.q.head_stride + query * a.q.token_stride;
    alignas(64) float scale[WIDE], scale_log2[WIDE];
    if (query == 0) prefetch(q, a.q.token_stride, count, d);
    pack_queries(q, count, width, scale);
    prefetch(q + WIDE * a.q.token_stride, a.q.token_stride, std::min<int64_t>(WIDE, a.queries - query - WIDE), d);
    for (int64_t i = 0; i < width; ++i) scale_log2[i] = scale[i] * std::max(a.scale, LEAST_SCALE) * 1.44269504f;
    Running running;
    const int64_t steps = ceil_div(a.keys, STEP), blocks = ceil_div(a.keys, KEYS);
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t start = block * steps / blocks * STEP, end = std::min((block + 1) * steps / blocks * STEP, a.keys);
        const int64_t here = end - start, whole = ceil_div(here, 4) * 4;
        for (int64_t key = 0; key < here; key += ROWS) {
            const int64_t rows = std::min<int64_t>(ROWS, here - key);
            float* to = scores + key * width;
            integer_tile(rows, vectors)(keys + (start + key) * channel_quads, ROWS, queries, channel_quads, reinterpret_cast<int32_t*>(to));
            to_scores(to, key_scale + start + key, key_offset + start + key, rows, vectors);
        }
        std::fill(scores + here * width, scores + whole * width, -INFINITY);
        (vectors == 2 ? soften<2, IntegerWeights> : soften<1, IntegerWeights>)(scores, whole, scale_log2, running, weights);
        add_values(start, whole, vectors, running.factor);
    }
    store(batch, head, query, count, vectors, running, scale);
}

void IntegerForward::add_values(int64_t start, int64_t count, int64_t vectors, const float* factor) {
    for (int64_t i = 0; i < channels.count; ++i) {
        const int64_t first = channels.start(i), rows = channels.rows(i);
        integer_tile(rows, vectors)(values + first * key_quads + start / 4 * rows, rows, weights, count / 4, part);
        add(part, rows, vectors, factor, start == 0, sums + first * vectors * LANES);
    }
}

void IntegerForward::store(int64_t batch, int64_t head, int64_t query, int64_t count, int64_t vectors, const Running& running,
                           const float* scale) {
    const int64_t width = vectors * LANES;
    for (int64_t c = 0; c < d; ++c)
        for (int64_t lane = 0; lane < width; ++lane) sums[c * width + lane] *= value_scale[c];
    uint16_t* out = a.out.data + batch * a.out.batch_stride + head * a.out.head_stride + query * a.out.token_stride;
    for (int64_t lane = 0; lane < width; lane += LANES) {
        const __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_loadu_ps(running.total + lane));
        store_transposed(sums + lane, width, d, inverse, out + lane * a.out.token_stride, a.out.token_stride,
                         std::min<int64_t>(LANES, count - lane));
    }
    float* lse = a.lse + (batch * a.heads + head) * a.queries + query;
    for (int64_t i = 0; i < count; ++i) lse[i] = running.maximum[i] * (scale[i] * a.scale) + std::log(running.total[i] / 255.0f);
}

}  // namespace

void avx512bf16::attend_int8(const Attention& a) {
    in_parallel<IntegerForward>(a, a.batch * a.heads * ceil_div(a.queries, WIDE), a.threads);
}

}  // namespace intaglio::attention
