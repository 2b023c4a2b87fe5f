// The product with a frozen weight: plain C.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// A frozen weight as it lies in memory: `out` rows of `taps * in` codes, input channels last.
struct Weight {
    const uint8_t* codes;        // 8 bits: int8; 4 bits: two codes a byte, the even column in the low nibble
    int64_t bits;                // 4 or 8
    int64_t row_bytes;           // from one row to the next
    int64_t out, taps, in;
    const int8_t* zero_point;    // (out, groups), or null for 0
    const float* ratio;          // (out, groups): code -> rint((code - zero_point) * ratio); null: taken as it is
    const float* levels;         // 16 values in place of the codes 0..15, or null; needs ratio
    int64_t groups, group_size;  // a row has `groups` runs of `group_size` codes
};

// Where the rows of the left operand come from. A matrix is an image of height 1 under a 1 x 1 kernel.
struct Window {
    int64_t images, in_height, in_width, out_height, out_width;
    int64_t kernel_height, kernel_width;
    int64_t stride_height, stride_width, pad_height, pad_width, dilation_height, dilation_width;
};

struct Product {
    const int8_t* x;          // int8 (images, in_height, in_width, channels), channels contiguous
    int64_t x_stride;         // codes from one pixel to the next
    const struct Weight* weight;
    const struct Window* window;
    int64_t grad_input;       // 0: sum over taps and input channels; 1: over taps and output channels
    int64_t out_type;         // 0: int32, 1: float32, 2: bfloat16
    void* out;                // (images * out_height * out_width, columns)
    int64_t out_stride;       // elements from one row to the next
    const float* row_scale;   // one for each `rows_per_scale` rows; unused for int32
    int64_t rows_per_scale;
    const float* column_scale;  // (columns)
    const float* bias;          // (columns), or null
    int64_t threads;
};

// out = sum * row_scale * column_scale + bias, each operation rounded to float32 in this order.
int intaglio_product(const struct Product* product);
}
#pragma GCC visibility pop
