// Compiled for any x86-64: calls the operations, which know their levels.

#include "layer.h"

extern "C" void intaglio_layer(const Layer* layer) {
    Product product = layer->product;
    product.x = layer->rows.codes;
    product.row_scale = layer->rows.scale;
    intaglio_quantize_rows(&layer->rows);
    intaglio_product(&product);
    if (!layer->with_pair) return;
    intaglio_pair_down(&layer->down);
    intaglio_pair_up(&layer->up);
}
