// The products of a float low-rank pair with activations in bfloat16: skinny, so memory and packing are what they cost.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// `a` (rank, columns) float32 with any strides, times `scale`, is rounded to bfloat16 first; sums are float32.
struct FloatPair {
    int64_t rows, columns, rank;
    const float* a;
    int64_t a_rank_stride, a_column_stride;
    float scale;
    void* x;            // bfloat16 (rows, columns); of token sums int8 too
    int64_t x_stride;   // elements from row to row
    int64_t x_type;     // 2: bfloat16, 3: int8
    uint16_t* h;        // bfloat16 (rows, rank), dense
    float* sums;        // (rank, columns), dense
    int64_t threads;
};

// h = x a^T
int intaglio_pair_down(const struct FloatPair* call);
// x += h a, in place: one rounding to bfloat16
int intaglio_pair_up(const struct FloatPair* call);
// sums = scale * h^T x; `a` is not read
int intaglio_pair_sums(const struct FloatPair* call);
}
#pragma GCC visibility pop
