// Rounding of rows to INT8, for AVX2.

#include <algorithm>
#include <cstdint>

#include "native/round_avx2.h"
#include "row_quantizer/native/rows.h"

namespace intaglio {
namespace {

template <typename T, bool F>
void group(const Rows& q, int64_t g) {
    const T* x = static_cast<const T*>(q.x) + g * q.x_group_stride;
    const float* factor = F ? q.factor + g * q.samples / q.groups * q.columns : nullptr;
    int8_t* to = q.codes + g * q.rows * q.columns;
    uint32_t top = 0;
    for (int64_t r = 0; r < q.rows; ++r) top = std::max(top, largest<T, F>(x + r * q.x_stride, factor, q.columns));
    const float inverse = inverse_of(top, q.scale + g);
    if (inverse == 0.0f) {
        std::memset(to, 0, q.rows * q.columns);
        return;
    }
    for (int64_t r = 0; r < q.rows; ++r) round_row<T, F>(x + r * q.x_stride, factor, inverse, q.columns, to + r * q.columns);
}

}  // namespace

namespace avx2 {

void quantize_rows(const Rows& q) {
#pragma omp parallel for num_threads(q.threads) schedule(static) if (q.threads > 1 && q.groups > 1)
    for (int64_t g = 0; g < q.groups; ++g) {
        if (q.x_type == 1)
            q.factor ? group<float, true>(q, g) : group<float, false>(q, g);
        else
            q.factor ? group<uint16_t, true>(q, g) : group<uint16_t, false>(q, g);
    }
}

}  // namespace avx2
}  // namespace intaglio
