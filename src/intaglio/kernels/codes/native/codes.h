// Codes of 2 to 8 bits: plain C.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// Codes of x * factor / divisor with one scale a group of rows, or one a column.
struct Codes {
    const void* x;         // float32 or bfloat16 (rows, columns), columns contiguous
    int64_t x_type;        // 1: float32, 2: bfloat16
    int64_t x_stride;      // elements from one row to the next
    int64_t rows, columns;
    int64_t groups;        // of equally many neighbouring rows; 0: a scale for each column
    const float* factor;   // (columns), or null: multiplied in first
    const float* divisor;  // (rows), or null: divided by, only with groups = 0
    int64_t max_code;
    int64_t power_of_two;
    float smallest;        // finest power-of-two scale
    int64_t stochastic;
    uint64_t seed;
    int8_t* codes;         // (rows, columns), dense
    float* scale;          // (groups), or (columns)
    int64_t threads;
};

int intaglio_codes(const struct Codes* call);
}
#pragma GCC visibility pop
