// Layer norm, forward and backward: plain C.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// As `GroupNorm`, over the columns of each row, without SiLU.
struct LayerNorm {
    const void* x;        // (rows, columns), dense
    int64_t type;
    const void* weight;   // (columns), or null for 1
    const void* bias;     // (columns), or null for 0
    int64_t affine_type;  // of weight and bias
    int64_t rows, columns;
    double eps;
    void* y;
    float* mean;          // (rows)
    float* rstd;          // (rows)
    int8_t* codes;        // like x: its INT8 codes, or null
    float* scale;         // (rows)
    int64_t threads;
};

int intaglio_layer_norm(const struct LayerNorm* norm);

struct LayerNormGrad {
    const void* grad;
    const void* x;        // of the same type, or int8 with `scale`
    int64_t type;
    const float* scale;   // (rows), or null: x is not int8
    const void* weight;
    int64_t affine_type;
    const float* mean;
    const float* rstd;
    int64_t rows, columns;
    void* grad_x;
    int64_t threads;
};

int intaglio_layer_norm_grad(const struct LayerNormGrad* grad);
}
#pragma GCC visibility pop
