// What the programs of `make sanitize` share.
#pragma once

#include <cstdint>
#include <memory>

namespace {

uint32_t state = 1;
int random_below(int n) {
    state = state * 1664525u + 1013904223u;
    return static_cast<int>((state >> 8) % static_cast<uint32_t>(n));
}

template <typename T>
std::unique_ptr<T[]> exact(int64_t count) {  // a block of its own, whose end the sanitizer guards
    return std::unique_ptr<T[]>(new T[count > 0 ? count : 1]());
}

}  // namespace
