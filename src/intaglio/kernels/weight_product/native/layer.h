// A frozen layer in one direction: what Python would else call one after the other, each time across the whole border.
#pragma once
#include "weight_product/native/product.h"
#include "row_quantizer/native/rows.h"
#include "float_pair/native/float_pair.h"

#pragma GCC visibility push(default)
extern "C" {

// Rounds `rows.x`, multiplies the codes with `product.weight`, and adds a low-rank pair's share if there is one:
// `product.x` and `product.row_scale` are not read.
struct Layer {
    struct Rows rows;
    struct Product product;
    struct FloatPair down, up;  // down.x is the input of `rows`, up.x the result of `product`
    int64_t with_pair;
};

int intaglio_layer(const struct Layer* layer);
}
#pragma GCC visibility pop
