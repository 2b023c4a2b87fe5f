// Compiled for any x86-64: hands the product to the code for this level.

#include "product.h"

#include "level.h"

extern "C" void intaglio_product(const Product* product) {
    using namespace intaglio;
    const Window& w = *product->window;
    const int64_t columns = product->grad_input ? product->weight->in : product->weight->out;
    if (w.images * w.out_height * w.out_width == 0 || columns == 0) return;
    if (level() >= AVX512)
        avx512::product(*product, level() >= AVX512_BF16);
    else
        avx2::product(*product);
}
