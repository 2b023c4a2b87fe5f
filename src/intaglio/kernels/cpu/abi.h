// What Python sees of the CPU kernels: plain C. `binding.py` repeats these structures field by field.
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
void intaglio_product(const struct Product* product);

struct Rows {
    const void* x;            // float32 or bfloat16 (groups, rows, columns), columns contiguous
    int64_t x_type;           // 1: float32, 2: bfloat16
    int64_t x_stride;         // elements from one row to the next
    int64_t x_group_stride;   // and from one group to the next
    int64_t groups, rows, columns;
    const float* factor;      // (samples, columns), or null: multiplied in first. Groups are divided among samples evenly
    int64_t samples;
    int64_t stochastic;       // 0: to nearest, ties to even; 1: stochastic
    uint64_t seed;
    int8_t* codes;            // (groups, rows, columns), dense
    float* scale;             // (groups)
    int64_t threads;
};

void intaglio_quantize_rows(const struct Rows* rows);

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

void intaglio_column_sums(const struct ColumnSums* sums);

// Multiplies and adds INT8 codes in registers, `rounds` times 12 vectors of 64: returns the operations (a product and a sum
// are two), 0 below AVX-512. Their rate is the most that a product could reach on one core.
int64_t intaglio_int8_peak(int64_t rounds);

// Whether the processor has a level (`level.h`).
int intaglio_has_level(int level);

// Choose a level that the processor has. Not while something runs.
void intaglio_set_level(int level);

// SHA-256 of the sources that this library was built from.
const char* intaglio_sources(void);
}
#pragma GCC visibility pop
