// Compiled for any processor: which code serves the activations.

#include "native/dispatch.h"
#include "gated/native/gated.h"

namespace intaglio {
namespace avx512bf16 {
void gated(const Gated& call);
void gated_grad(const GatedGrad& call);
}  // namespace avx512bf16
namespace avx512 {
void gated(const Gated& call);
void gated_grad(const GatedGrad& call);
}  // namespace avx512
namespace avx2 {
void gated(const Gated& call);
void gated_grad(const GatedGrad& call);
}  // namespace avx2
namespace {

const Entry<Gated> GATED[] = {
    {"avx512bf16", AVX512_BF16, avx512bf16::gated},
    {"avx512", AVX512, avx512::gated},
    {"avx2", AVX2, avx2::gated},
};
const Listed listed_gated("intaglio_gated", GATED);

const Entry<GatedGrad> GATED_GRAD[] = {
    {"avx512bf16", AVX512_BF16, avx512bf16::gated_grad},
    {"avx512", AVX512, avx512::gated_grad},
    {"avx2", AVX2, avx2::gated_grad},
};
const Listed listed_gated_grad("intaglio_gated_grad", GATED_GRAD);

}  // namespace
}  // namespace intaglio

extern "C" int intaglio_gated(const Gated* call) { return intaglio::dispatch(intaglio::GATED, *call); }
extern "C" int intaglio_gated_grad(const GatedGrad* call) { return intaglio::dispatch(intaglio::GATED_GRAD, *call); }
