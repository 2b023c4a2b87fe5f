// What `float_pair_levels.cpp` chooses among, by level.
#pragma once
#include "float_pair.h"

namespace intaglio {

struct PairProducts {
    void (*down)(const FloatPair&);
    void (*up)(const FloatPair&);
    void (*sums)(const FloatPair&);
};

extern const PairProducts pair_avx2, pair_avx512bf16;

}  // namespace intaglio
