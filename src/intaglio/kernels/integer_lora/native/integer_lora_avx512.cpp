// Calls the operations in the order of `quantizers/integer_step.py`; what only they pass to each other lies in scratch.

#include "integer_lora/native/integer_lora.h"

#include "codes/native/codes.h"
#include "low_rank/native/low_rank.h"

#include <cmath>

#include "native/panels_avx512.h"

namespace intaglio {
namespace {

struct Pair {  // codes, with a scale a rank
    int8_t *a, *b;
    float *a_scale, *b_scale;
};

Pair round_pair(const IntegerLora& p) {
    static thread_local Scratch<int8_t> codes;
    static thread_local Scratch<float> scales;
    int8_t* a = codes.of(p.rank * (p.in + p.out));
    float* a_scale = scales.of(2 * p.rank);
    const Pair pair{a, a + p.rank * p.in, a_scale, a_scale + p.rank};
    const Codes of_a{p.a, 1, p.in, p.rank, p.in, p.rank, p.a_factor, nullptr, 127, p.power_of_two, p.smallest, 0, 0, pair.a,
        pair.a_scale, p.threads};
    const Codes of_b{p.b, 1, p.rank, p.out, p.rank, 0, nullptr, p.weight_scale, 127, p.power_of_two, p.smallest, 0, 0, pair.b,
        pair.b_scale, p.threads};
    intaglio_codes(&of_a);
    intaglio_codes(&of_b);
    return pair;
}

int round_rows(Rows rows, int64_t threads) {
    rows.threads = threads;
    intaglio_quantize_rows(&rows);
    int finite = 1;
    for (int64_t g = 0; g < rows.groups; ++g) finite &= std::isfinite(rows.scale[g]) ? 1 : 0;
    return finite;
}

void multiply(Product product, const int8_t* codes, const float* scale, int64_t threads) {
    product.x = codes;
    product.row_scale = scale;
    product.threads = threads;
    intaglio_product(&product);
}

// h, and with `second` its share of the product's result.
void add_pair(const IntegerLora& p, const Rows& rows, LowRank pair) {
    static thread_local Scratch<int8_t> codes;
    pair.x = rows.codes;
    pair.x_stride = pair.columns = rows.columns;
    pair.rows = rows.groups * rows.rows;
    pair.rank = p.rank;
    pair.row_scale = rows.scale;
    pair.groups = rows.groups;
    pair.max_code = 127;
    pair.codes = codes.of(pair.rows * p.rank);
    pair.out = p.product.out;
    pair.out_type = p.product.out_type;
    pair.out_stride = pair.out_columns;
    pair.threads = p.threads;
    intaglio_low_rank(&pair);
}

// The gradient of one of the pair's matrices; `h` in the other's rank.
void sum_tokens(const IntegerLora& p, const Rows& rows, const int32_t* h, const float* rank_scale, TokenSums sums) {
    sums.h = h;
    sums.rows = rows.groups * rows.rows;
    sums.rank = p.rank;
    sums.left_scale = p.x_scale;
    sums.right_scale = rows.scale;
    sums.groups = rows.groups;
    sums.rank_scale = rank_scale;
    sums.max_code = 127;
    sums.right_stride = sums.columns;
    sums.threads = p.threads;
    intaglio_token_sums(&sums);
}

}  // namespace

namespace avx512 {

int integer_lora_forward(const IntegerLora& p) {
    const Pair pair = round_pair(p);
    const int finite = p.rounded ? 1 : round_rows(p.rows, p.threads);
    multiply(p.product, p.rows.codes, p.rows.scale, p.threads);
    LowRank update{};
    update.first = pair.a, update.first_rank_stride = p.in, update.first_column_stride = 1;
    update.second = pair.b, update.second_column_stride = p.rank, update.second_rank_stride = 1;
    update.first_scale = pair.a_scale, update.second_scale = pair.b_scale;
    update.out_columns = p.out, update.column_scale = p.weight_scale;
    update.h = p.h;
    add_pair(p, p.rows, update);
    return finite;
}

int integer_lora_backward(const IntegerLora& p) {
    static thread_local Scratch<int8_t> codes;
    static thread_local Scratch<float> scale;
    static thread_local Scratch<int32_t> h;
    const Pair pair = round_pair(p);
    Rows rows = p.rows;
    rows.codes = codes.of(rows.groups * rows.rows * rows.columns);
    rows.scale = scale.of(rows.groups);
    const int finite = round_rows(rows, p.threads);
    if (p.with_product) multiply(p.product, rows.codes, rows.scale, p.threads);
    LowRank update{};
    update.first = pair.b, update.first_rank_stride = 1, update.first_column_stride = p.rank;
    update.h = h.of(rows.groups * rows.rows * p.rank);
    if (p.with_product) {
        update.second = pair.a, update.second_column_stride = 1, update.second_rank_stride = p.in;
        update.first_scale = pair.a_scale, update.second_scale = pair.b_scale;
        update.out_columns = p.in, update.column_scale = p.input_scale;
    }
    add_pair(p, rows, update);
    TokenSums of_b{}, of_a{};
    of_b.right = rows.codes, of_b.columns = p.out, of_b.divisor = p.weight_scale, of_b.multiplier = 1.0;
    of_b.out = p.grad_b, of_b.out_rank_stride = 1, of_b.out_column_stride = p.rank;
    of_a.right = p.x_codes, of_a.columns = p.in, of_a.multiplier = p.multiplier;
    of_a.out = p.grad_a, of_a.out_rank_stride = p.in, of_a.out_column_stride = 1;
    sum_tokens(p, rows, p.h, pair.a_scale, of_b);
    sum_tokens(p, rows, update.h, pair.b_scale, of_a);
    return finite;
}

}  // namespace avx512
}  // namespace intaglio
