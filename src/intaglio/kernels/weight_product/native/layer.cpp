// Compiled for any processor: calls the operations, each of which chooses its code.

#include "weight_product/native/layer.h"

extern "C" int intaglio_layer(const Layer* layer) {
    Product product = layer->product;
    product.x = layer->rows.codes;
    product.row_scale = layer->rows.scale;
    if (const int status = intaglio_quantize_rows(&layer->rows)) return status;
    if (const int status = intaglio_product(&product)) return status;
    if (!layer->with_pair) return 0;
    if (const int status = intaglio_pair_down(&layer->down)) return status;
    return intaglio_pair_up(&layer->up);
}
