// Operands by column in the order of the blocks of `vectors_avx512.h` and `vectors_avx2.h`, which include this.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace intaglio {
namespace {

// The column, from the start of its block, of an element of a block.
template <typename T>
int64_t column_of(int64_t at) {
    const int64_t i = at / LANES, lane = at % LANES;
    return sizeof(T) == 2 ? 2 * LANES * (i / 2) + 2 * lane + i % 2 : at;
}

// One element of a float32 (1) or bfloat16 (2) array; `otherwise` of none.
inline float element(const void* p, int64_t type, int64_t i, float otherwise) {
    if (!p) return otherwise;
    if (type == 1) return static_cast<const float*>(p)[i];
    const uint32_t bits = static_cast<uint32_t>(static_cast<const bf16*>(p)[i]) << 16;
    float v;
    std::memcpy(&v, &bits, 4);
    return v;
}

// Per-column values in the order of the blocks of T, zeros up to a whole block.
template <typename T>
void in_block_order(const float* from, int64_t columns, float* to) {
    for (int64_t start = 0; start < columns; start += BLOCK)
        for (int64_t at = 0; at < BLOCK; ++at) {
            const int64_t column = start + column_of<T>(at);
            to[start + at] = column < columns ? from[column] : 0.0f;
        }
}

// Zeros at first. In place of std::vector, whose code would be shared with units for older processors.
template <typename T>
struct Array {
    T* const data;

    explicit Array(int64_t count) : data(static_cast<T*>(std::calloc(count > 0 ? count : 1, sizeof(T)))) {
        if (!data) throw std::bad_alloc();
    }
    ~Array() { std::free(data); }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;
    T& operator[](int64_t i) const { return data[i]; }
};

// Vector `i` of the block at `c` of values in block order.
inline Vec at(const float* p, int64_t c, int i) { return load(p + c + LANES * i); }

}  // namespace
}  // namespace intaglio
