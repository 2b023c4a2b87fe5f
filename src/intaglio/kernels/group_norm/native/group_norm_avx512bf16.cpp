#include "native/round_avx512.h"
#include "native/vectors_avx512.h"

#include "group_norm/native/group_norm_rows.h"

namespace intaglio::avx512bf16 {

void group_norm(const GroupNorm& call) { intaglio::group_norm(call); }
void group_norm_grad(const GroupNormGrad& call) { intaglio::group_norm_grad(call); }

}  // namespace intaglio::avx512bf16
