#include "native/round_avx2.h"
#include "native/vectors_avx2.h"

#include "group_norm/native/group_norm_rows.h"

namespace intaglio::avx2 {

void group_norm(const GroupNorm& call) { intaglio::group_norm(call); }
void group_norm_grad(const GroupNormGrad& call) { intaglio::group_norm_grad(call); }

}  // namespace intaglio::avx2
