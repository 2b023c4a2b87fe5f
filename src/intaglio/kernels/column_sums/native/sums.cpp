// Compiled for any processor: which code sums over rows.

#include "native/dispatch.h"
#include "column_sums/native/sums.h"

namespace intaglio {
namespace avx512 {
void column_sums(const ColumnSums& call);
}  // namespace avx512
namespace avx2 {
void column_sums(const ColumnSums& call);
}  // namespace avx2
namespace {

const Entry<ColumnSums> COLUMN_SUMS[] = {
    {"avx512", AVX512, avx512::column_sums},
    {"avx2", AVX2, avx2::column_sums},
};
const Listed listed_column_sums("intaglio_column_sums", COLUMN_SUMS);

}  // namespace
}  // namespace intaglio

extern "C" int intaglio_column_sums(const ColumnSums* call) { return intaglio::dispatch(intaglio::COLUMN_SUMS, *call); }
