// What the programs of `make sanitize` share.
#pragma once

#include <cstdint>
#include <memory>

#include "native/features.h"
#include "native/library.h"

namespace {

[[maybe_unused]] const uint64_t SETS[] = {intaglio::AVX2, intaglio::AVX_VNNI, intaglio::AVX512_VL, intaglio::AVX512,
                                          intaglio::AVX512_BF16};

// Uses these features and no others; false where the processor lacks one.
[[maybe_unused]] bool use(uint64_t set) { return intaglio_use(set) == set; }

[[maybe_unused]] uint32_t state = 1;
[[maybe_unused]] int random_below(int n) {
    state = state * 1664525u + 1013904223u;
    return static_cast<int>((state >> 8) % static_cast<uint32_t>(n));
}

template <typename T>
std::unique_ptr<T[]> exact(int64_t count) {  // a block of its own, whose end the sanitizer guards
    return std::unique_ptr<T[]>(new T[count > 0 ? count : 1]());
}

}  // namespace
