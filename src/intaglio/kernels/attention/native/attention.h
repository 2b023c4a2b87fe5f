// Softmax attention in bfloat16: plain C.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// bfloat16 (batch, heads, tokens, head_dim), the last axis contiguous; strides in elements.
struct Tokens {
    uint16_t* data;
    int64_t batch_stride, head_stride, token_stride;
};

struct Attention {
    struct Tokens q, k, v, out;
    float* lse;  // (batch, heads, queries), dense: log sum over keys of exp(scale * q k)
    int64_t batch, heads, queries, keys, head_dim;  // none is 0
    float scale;                                    // not negative
    int64_t threads;
};

// Writes `out` and `lse`.
int intaglio_attention(const struct Attention* attention);

// The same with both products in INT8 x INT8 -> INT32, head_dim at most 256: queries and keys with one scale a token, values
// with one a channel and head, weights in 255ths of the largest so far.
int intaglio_attention_int8(const struct Attention* attention);

struct AttentionGradient {
    const struct Attention* forward;  // `out` and `lse` are read
    struct Tokens grad_out, grad_q, grad_k, grad_v;
};

// Writes `grad_q`, `grad_k` and `grad_v`.
int intaglio_attention_gradient(const struct AttentionGradient* gradient);
}
#pragma GCC visibility pop
