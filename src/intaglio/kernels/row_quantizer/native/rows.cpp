// Compiled for any processor: which code rounds rows.

#include "native/dispatch.h"
#include "row_quantizer/native/rows.h"

namespace intaglio {
namespace avx512 {
void quantize_rows(const Rows& call);
}  // namespace avx512
namespace avx2 {
void quantize_rows(const Rows& call);
}  // namespace avx2
namespace {

const Entry<Rows> QUANTIZE_ROWS[] = {
    {"avx512", AVX512, avx512::quantize_rows},
    {"avx2", AVX2, avx2::quantize_rows},
};
const Listed listed_quantize_rows("intaglio_quantize_rows", QUANTIZE_ROWS);

}  // namespace
}  // namespace intaglio

extern "C" int intaglio_quantize_rows(const Rows* call) { return intaglio::dispatch(intaglio::QUANTIZE_ROWS, *call); }
