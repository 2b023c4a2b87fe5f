// What the library says of itself and of the processor: plain C.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// SHA-256 of the sources that this library was built from.
const char* intaglio_sources(void);

// Every structure of the headers as the compiler lays it out: "Name size field offset field offset ...;".
const char* intaglio_layout(void);

// Names of features, the lowest bit first, separated by spaces.
const char* intaglio_feature_names(void);

// Those that the processor has and the system lets be used.
uint64_t intaglio_detected(void);

// Use no others from now on: not while something runs. Returns what may be used, never more than was detected.
uint64_t intaglio_use(uint64_t features);

// Every entry of every table: "function name needs;", the best of a function first.
const char* intaglio_entries(void);

// Multiplies and adds INT8 codes in registers, `rounds` times 12 vectors of 64: returns the operations (a product and a sum
// are two), 0 below AVX-512. Their rate is the most that a product could reach on one core.
int64_t intaglio_int8_peak(int64_t rounds);
}
#pragma GCC visibility pop
