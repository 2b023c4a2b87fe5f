// Compiled for any processor: which code serves layer norm.

#include "native/dispatch.h"
#include "layer_norm/native/layer_norm.h"

namespace intaglio {
namespace avx512bf16 {
void layer_norm(const LayerNorm& call);
void layer_norm_grad(const LayerNormGrad& call);
}  // namespace avx512bf16
namespace avx512 {
void layer_norm(const LayerNorm& call);
void layer_norm_grad(const LayerNormGrad& call);
}  // namespace avx512
namespace avx2 {
void layer_norm(const LayerNorm& call);
void layer_norm_grad(const LayerNormGrad& call);
}  // namespace avx2
namespace {

const Entry<LayerNorm> LAYER_NORM[] = {
    {"avx512bf16", AVX512_BF16, avx512bf16::layer_norm},
    {"avx512", AVX512, avx512::layer_norm},
    {"avx2", AVX2, avx2::layer_norm},
};
const Listed listed_layer_norm("intaglio_layer_norm", LAYER_NORM);

const Entry<LayerNormGrad> LAYER_NORM_GRAD[] = {
    {"avx512bf16", AVX512_BF16, avx512bf16::layer_norm_grad},
    {"avx512", AVX512, avx512::layer_norm_grad},
    {"avx2", AVX2, avx2::layer_norm_grad},
};
const Listed listed_layer_norm_grad("intaglio_layer_norm_grad", LAYER_NORM_GRAD);

}  // namespace
}  // namespace intaglio

extern "C" int intaglio_layer_norm(const LayerNorm* call) { return intaglio::dispatch(intaglio::LAYER_NORM, *call); }
extern "C" int intaglio_layer_norm_grad(const LayerNormGrad* call) { return intaglio::dispatch(intaglio::LAYER_NORM_GRAD, *call); }
