// A frozen layer and its low-rank pair in 8 bits, in one direction: what Python would else call one after the other.
// Needs AVX-512 with VNNI, as its parts do.
#pragma once
#include "row_quantizer/native/rows.h"
#include "weight_product/native/product.h"

#pragma GCC visibility push(default)
extern "C" {

struct IntegerLora {
    struct Rows rows;        // of the input, or of the gradient of the output (which takes no codes: they are scratch)
    struct Product product;  // of their codes: `x` and `row_scale` are not read; of a gradient only with `with_product`
    int64_t rounded;         // forward: rows.codes and rows.scale are there already
    int64_t with_product;
    int64_t in, out, rank;
    const float* a;             // (rank, in), dense
    const float* a_factor;      // (in), or null for 1
    const float* b;             // (out, rank), dense
    const float* weight_scale;  // (out): b is rounded over it
    const float* input_scale;   // (in), or null for 1: the gradient of the input is multiplied by it
    int64_t power_of_two;       // scales of the codes of a and b
    float smallest;             // the finest such scale
    int32_t* h;                 // (rows, rank), dense: forward's result, which backward reads
    const int8_t* x_codes;      // backward: what forward rounded
    const float* x_scale;       // as many as of rows
    double multiplier;          // of the gradient of a
    float* grad_a;              // (rank, in), dense
    float* grad_b;              // (out, rank), dense
    int64_t threads;
};

// 1 if every scale of the rounded rows is finite, 0 if not, or `NOT_SERVED`.
int intaglio_integer_lora_forward(const struct IntegerLora* call);
int intaglio_integer_lora_backward(const struct IntegerLora* call);
}
#pragma GCC visibility pop
