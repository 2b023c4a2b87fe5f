// Attention for AVX2 with FMA: float32 throughout, from bfloat16 and back. A head is widened once, and its products are
// those of `float_tiles_avx2.h`; queries lie in the rows of scores, keys in their columns.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/native/attention_sets.h"
#include "attention/native/attention_scratch.h"
#include "native/float_tiles_avx2.h"

namespace intaglio::attention {
namespace {

constexpr int64_t QUERIES = 8 * TILE_ROWS;
constexpr int64_t KEYS = 8 * PANEL;      // a block of scores and what is multiplied to get it stay in the L1 cache
constexpr int64_t SCORES = KEYS + PANEL;  // floats from row to row of a block: an odd number of lines
constexpr float LOG2_E = 1.44269504f;

inline const uint16_t* head_of(const Tokens& x, int64_t batch, int64_t head) {
    return x.data + batch * x.batch_stride + head * x.head_stride;
}

// bfloat16 tokens [first, first + count) -> float32 rows.
inline void widen_rows(const Tokens& x, int64_t batch, int64_t head, int64_t first, int64_t count, int64_t head_dim, float* to) {
    const uint16_t* from = head_of(x, batch, head) + first * x.token_stride;
    for (int64_t i = 0; i < count; ++i) widen(from + i * x.token_stride, head_dim, 1.0f, to + i * odd_lines(head_dim));
}

// float32 rows times a factor for each -> bfloat16 tokens.
inline void narrow_row(const float* from, float factor, int64_t head_dim, uint16_t* to) {
    const __m256 by = _mm256_set1_ps(factor);
    for (int64_t c = 0; c < head_dim; c += EIGHT) store8(to + c, _mm256_mul_ps(load8(from + c), by), head_dim - c);
}

}  // namespace
}  // namespace intaglio::attention
