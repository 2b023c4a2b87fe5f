// Norms and activations of one set of instructions.
#pragma once
#include "gated.h"
#include "norms.h"

namespace intaglio {

struct RowWise {
    void (*group_norm)(const GroupNorm&);
    void (*group_norm_grad)(const GroupNormGrad&);
    void (*layer_norm)(const LayerNorm&);
    void (*layer_norm_grad)(const LayerNormGrad&);
    void (*gated)(const Gated&);
    void (*gated_grad)(const GatedGrad&);
};

extern const RowWise rowwise_avx2, rowwise_avx512, rowwise_avx512bf16;

}  // namespace intaglio
