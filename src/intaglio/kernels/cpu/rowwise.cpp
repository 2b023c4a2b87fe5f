// Norms and activations by the instructions that are in use.

#include "rowwise.h"

#include "level.h"

namespace {

const intaglio::RowWise& in_use() {
    switch (intaglio::level()) {
        case intaglio::AVX512: return intaglio::rowwise_avx512;
        case intaglio::AVX512_BF16: return intaglio::rowwise_avx512bf16;
        default: return intaglio::rowwise_avx2;
    }
}

}  // namespace

extern "C" void intaglio_group_norm(const GroupNorm* norm) { in_use().group_norm(*norm); }
extern "C" void intaglio_group_norm_grad(const GroupNormGrad* grad) { in_use().group_norm_grad(*grad); }
extern "C" void intaglio_layer_norm(const LayerNorm* norm) { in_use().layer_norm(*norm); }
extern "C" void intaglio_layer_norm_grad(const LayerNormGrad* grad) { in_use().layer_norm_grad(*grad); }
extern "C" void intaglio_gated(const Gated* gated) { in_use().gated(*gated); }
extern "C" void intaglio_gated_grad(const GatedGrad* grad) { in_use().gated_grad(*grad); }
