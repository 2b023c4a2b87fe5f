// Sums over rows: plain C.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// sums[s, c] = sum over the rows of sample s of a[., c] * b[., c] * (scale ? scale[row / rows_per_scale] : 1); rows are
// added in float32 in blocks of 64, blocks in float64.
struct ColumnSums {
    const void* a;            // float32 or bfloat16 (samples, rows, columns), columns contiguous
    int64_t a_type;           // 1: float32, 2: bfloat16
    int64_t a_stride;         // elements from one row to the next, all samples in order
    const void* b;            // the same shape, dense: float32 (beside float32), or int8 with `scale`; null for 1
    const float* scale;
    int64_t b_type;           // 1: float32, 3: int8
    int64_t rows_per_scale;
    int64_t samples, rows, columns;
    float* sums;              // (samples, columns)
    int64_t threads;
};

int intaglio_column_sums(const struct ColumnSums* sums);
}
#pragma GCC visibility pop
