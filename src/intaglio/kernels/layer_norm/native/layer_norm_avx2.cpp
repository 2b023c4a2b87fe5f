#include "native/round_avx2.h"
#include "native/vectors_avx2.h"

#include "layer_norm/native/layer_norm_rows.h"

namespace intaglio::avx2 {

void layer_norm(const LayerNorm& call) { intaglio::layer_norm(call); }
void layer_norm_grad(const LayerNormGrad& call) { intaglio::layer_norm_grad(call); }

}  // namespace intaglio::avx2
