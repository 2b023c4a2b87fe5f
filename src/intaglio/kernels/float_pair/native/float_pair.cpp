// Compiled for any processor: which code multiplies with a float low-rank pair.

#include "native/dispatch.h"
#include "float_pair/native/float_pair.h"

namespace intaglio {
namespace avx512bf16 {
void pair_down(const FloatPair& call);
void pair_up(const FloatPair& call);
void pair_sums(const FloatPair& call);
}  // namespace avx512bf16
namespace avx2 {
void pair_down(const FloatPair& call);
void pair_up(const FloatPair& call);
void pair_sums(const FloatPair& call);
}  // namespace avx2
namespace {

const Entry<FloatPair> PAIR_DOWN[] = {
    {"avx512bf16", AVX512_BF16, avx512bf16::pair_down},
    {"avx2", AVX2, avx2::pair_down},
};
const Listed listed_pair_down("intaglio_pair_down", PAIR_DOWN);

const Entry<FloatPair> PAIR_UP[] = {
    {"avx512bf16", AVX512_BF16, avx512bf16::pair_up},
    {"avx2", AVX2, avx2::pair_up},
};
const Listed listed_pair_up("intaglio_pair_up", PAIR_UP);

const Entry<FloatPair> PAIR_SUMS[] = {
    {"avx512bf16", AVX512_BF16, avx512bf16::pair_sums},
    {"avx2", AVX2, avx2::pair_sums},
};
const Listed listed_pair_sums("intaglio_pair_sums", PAIR_SUMS);

}  // namespace
}  // namespace intaglio

extern "C" int intaglio_pair_down(const FloatPair* call) { return intaglio::dispatch(intaglio::PAIR_DOWN, *call); }
extern "C" int intaglio_pair_up(const FloatPair* call) { return intaglio::dispatch(intaglio::PAIR_UP, *call); }
extern "C" int intaglio_pair_sums(const FloatPair* call) { return intaglio::dispatch(intaglio::PAIR_SUMS, *call); }
