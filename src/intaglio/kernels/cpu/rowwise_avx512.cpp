#include "rowwise.h"

#include "round_avx512.h"
#include "vectors_avx512.h"

#include "gated_rows.h"
#include "group_norm_rows.h"
#include "layer_norm_rows.h"

namespace intaglio {

const RowWise rowwise_avx512 = {group_norm, group_norm_grad, layer_norm, layer_norm_grad, gated, gated_grad};

}  // namespace intaglio
