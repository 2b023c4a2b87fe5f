#include "rowwise.h"

#include "gated_avx512.h"
#include "group_norm_avx512.h"
#include "layer_norm_avx512.h"

namespace intaglio {

const RowWise rowwise_avx512bf16 = {group_norm, group_norm_grad, layer_norm, layer_norm_grad, gated, gated_grad};

}  // namespace intaglio
