// GELU, its tanh twin and SiLU, alone or as a gate: plain C.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// y = f(x); gated: x = [a, g] side by side in a row, y = a f(g).
struct Gated {
    const void* x;       // (rows, columns), gated (rows, 2 columns); dense
    int64_t type;        // of x and y. 1: float32, 2: bfloat16
    int64_t rows, columns;
    int64_t function;    // 0: GELU, 1: GELU by tanh, 2: SiLU
    int64_t gated;
    void* y;             // (rows, columns)
    int8_t* codes;       // like x: its INT8 codes, or null
    float* scale;        // (rows), gated (rows, 2): one for each half
    int64_t threads;
};

int intaglio_gated(const struct Gated* gated);

struct GatedGrad {
    const void* grad;    // of y; (rows, columns)
    const void* x;       // of the same type, or int8 with `scale`
    int64_t type;        // of grad and grad_x
    const float* scale;  // (rows), gated (rows, 2); or null: x is not int8
    int64_t rows, columns;
    int64_t function;
    int64_t gated;
    void* grad_x;        // like x
    int64_t threads;
};

int intaglio_gated_grad(const struct GatedGrad* grad);
}
#pragma GCC visibility pop
