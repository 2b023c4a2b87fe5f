// The scale of a group of rows that is rounded to INT8.
#pragma once
#include <cstdint>
#include <cstring>

namespace intaglio {

constexpr float SMALLEST = 0x1p-119f;  // 127 / SMALLEST is finite; what is smaller counts as zero

// What a group is multiplied with before it is rounded, from the bits of its largest |value|; 0: all its codes are 0.
static inline float inverse_of(uint32_t top, float* scale) {
    float absmax;
    std::memcpy(&absmax, &top, 4);
    if (top >= 0x7f800000) {  // NaN goes on to the whole result
        *scale = __builtin_nanf("");
        return 0.0f;
    }
    if (absmax < SMALLEST) {
        *scale = 1.0f;
        return 0.0f;
    }
    *scale = absmax / 127.0f;
    return 127.0f / absmax;
}

}  // namespace intaglio
