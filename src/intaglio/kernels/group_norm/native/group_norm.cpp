// Compiled for any processor: which code serves group norm.

#include "native/dispatch.h"
#include "group_norm/native/group_norm.h"

namespace intaglio {
namespace avx512bf16 {
void group_norm(const GroupNorm& call);
void group_norm_grad(const GroupNormGrad& call);
}  // namespace avx512bf16
namespace avx512 {
void group_norm(const GroupNorm& call);
void group_norm_grad(const GroupNormGrad& call);
}  // namespace avx512
namespace avx2 {
void group_norm(const GroupNorm& call);
void group_norm_grad(const GroupNormGrad& call);
}  // namespace avx2
namespace {

const Entry<GroupNorm> GROUP_NORM[] = {
    {"avx512bf16", AVX512_BF16, avx512bf16::group_norm},
    {"avx512", AVX512, avx512::group_norm},
    {"avx2", AVX2, avx2::group_norm},
};
const Listed listed_group_norm("intaglio_group_norm", GROUP_NORM);

const Entry<GroupNormGrad> GROUP_NORM_GRAD[] = {
    {"avx512bf16", AVX512_BF16, avx512bf16::group_norm_grad},
    {"avx512", AVX512, avx512::group_norm_grad},
    {"avx2", AVX2, avx2::group_norm_grad},
};
const Listed listed_group_norm_grad("intaglio_group_norm_grad", GROUP_NORM_GRAD);

}  // namespace
}  // namespace intaglio

extern "C" int intaglio_group_norm(const GroupNorm* call) { return intaglio::dispatch(intaglio::GROUP_NORM, *call); }
extern "C" int intaglio_group_norm_grad(const GroupNormGrad* call) { return intaglio::dispatch(intaglio::GROUP_NORM_GRAD, *call); }
