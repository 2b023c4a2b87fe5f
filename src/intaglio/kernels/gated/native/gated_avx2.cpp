#include "native/round_avx2.h"
#include "native/vectors_avx2.h"

#include "gated/native/gated_rows.h"

namespace intaglio::avx2 {

void gated(const Gated& call) { intaglio::gated(call); }
void gated_grad(const GatedGrad& call) { intaglio::gated_grad(call); }

}  // namespace intaglio::avx2
