// Products with a low-rank pair by the instructions that are in use.

#include "float_pair_levels.h"

#include "level.h"

namespace {

const intaglio::PairProducts& in_use() {
    return intaglio::level() == intaglio::AVX512_BF16 ? intaglio::pair_avx512bf16 : intaglio::pair_avx2;
}

}  // namespace

extern "C" void intaglio_pair_down(const FloatPair* call) { in_use().down(*call); }
extern "C" void intaglio_pair_up(const FloatPair* call) { in_use().up(*call); }
extern "C" void intaglio_pair_sums(const FloatPair* call) { in_use().sums(*call); }
