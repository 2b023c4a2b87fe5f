// Group norm, forward and backward: plain C.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// z = (x - mean) * rstd * weight + bias, mean and 1 / sqrt(variance + eps) of a sample's group of neighbouring channels
// over all its rows; y = z, or z * sigmoid(z).
struct GroupNorm {
    const void* x;        // (samples, rows, channels), dense
    int64_t type;         // of x and y. 1: float32, 2: bfloat16
    const void* weight;   // (channels), or null for 1
    const void* bias;     // (channels), or null for 0
    int64_t affine_type;  // of weight and bias. 1: float32, 2: bfloat16
    int64_t samples, rows, channels, groups;
    double eps;
    int64_t silu;         // 0: y = z, 1: y = z * sigmoid(z)
    void* y;              // like x
    float* mean;          // (samples, groups)
    float* rstd;          // (samples, groups)
    int8_t* codes;        // like x: its INT8 codes, a scale for each row; or null
    float* scale;         // (samples * rows)
    int64_t threads;
};

int intaglio_group_norm(const struct GroupNorm* norm);

struct GroupNormGrad {
    const void* grad;     // of y; (samples, rows, channels), dense
    const void* x;        // of the same type, or int8 with `scale`
    int64_t type;         // of grad and grad_x. 1: float32, 2: bfloat16
    const float* scale;   // (samples * rows), or null: x is not int8
    const void* weight;
    const void* bias;
    int64_t affine_type;
    const float* mean;
    const float* rstd;
    int64_t samples, rows, channels, groups;
    int64_t silu;
    void* grad_x;         // like grad
    float* grad_weight;   // (channels), or null for neither
    float* grad_bias;     // (channels)
    int64_t threads;
};

int intaglio_group_norm_grad(const struct GroupNormGrad* grad);
}
#pragma GCC visibility pop
