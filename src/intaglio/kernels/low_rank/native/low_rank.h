// The products of a low-rank pair in integers: plain C.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// h = x first^T; then, where there is a `second`: codes of h * (row_scale * (first_scale * second_scale)) in float64, and
// out += (codes second^T * scale of the codes) * column_scale, each operation rounded to float32, and to `out` last.
struct LowRank {
    const int8_t* x;  // (rows, columns), columns contiguous
    int64_t x_stride;
    int64_t rows, columns, rank;
    const int8_t* first;  // (rank, columns), one of its strides 1
    int64_t first_rank_stride, first_column_stride;
    int32_t* h;            // (rows, rank), dense: a result
    const int8_t* second;  // (out_columns, rank), one of its strides 1; or null
    int64_t second_column_stride, second_rank_stride;
    int64_t out_columns;
    const float* row_scale;  // (groups), of equally many neighbouring rows, which share a scale of codes too
    int64_t groups;
    const float *first_scale, *second_scale;  // (rank)
    int64_t max_code;
    int64_t power_of_two;
    int8_t* codes;              // (rows, rank), dense: a result
    const float* column_scale;  // (out_columns), or null for 1
    void* out;                  // (rows, out_columns), columns contiguous
    int64_t out_type;           // 1: float32, 2: bfloat16
    int64_t out_stride;
    int64_t threads;
};

int intaglio_low_rank(const struct LowRank* call);

// out = (codes^T right * scale of the codes / divisor) * multiplier, in float64 and then float32, where the codes are
// those of h * ((left_scale * right_scale) * rank_scale), in float64, with a scale a column.
struct TokenSums {
    const int32_t* h;  // (rows, rank), dense
    int64_t rows, rank;
    const float *left_scale, *right_scale;  // (groups), of equally many neighbouring rows
    int64_t groups;
    const float* rank_scale;  // (rank)
    int64_t max_code;
    int64_t power_of_two;
    int64_t stochastic;
    uint64_t seed;
    const int8_t* right;  // (rows, columns), columns contiguous
    int64_t right_stride, columns;
    const float* divisor;  // (columns), or null for 1
    double multiplier;
    float* out;  // (rank, columns) in these strides
    int64_t out_rank_stride, out_column_stride;
    int64_t threads;
};

int intaglio_token_sums(const struct TokenSums* call);
}
#pragma GCC visibility pop
