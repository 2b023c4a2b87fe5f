// Rounding of rows to INT8: plain C.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// To nearest, ties to even, with one scale a group.
struct Rows {
    const void* x;            // float32 or bfloat16 (groups, rows, columns), columns contiguous
    int64_t x_type;           // 1: float32, 2: bfloat16
    int64_t x_stride;         // elements from one row to the next
    int64_t x_group_stride;   // and from one group to the next
    int64_t groups, rows, columns;
    const float* factor;      // (samples, columns), or null: multiplied in first. Groups are divided among samples evenly
    int64_t samples;
    int8_t* codes;            // (groups, rows, columns), dense
    float* scale;             // (groups)
    int64_t threads;
};

int intaglio_quantize_rows(const struct Rows* rows);
}
#pragma GCC visibility pop
