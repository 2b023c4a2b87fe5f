// Compiled for any x86-64: hands the product to the code for this level.

#include "product.h"

#include "level.h"

extern "C" void intaglio_product(const Product* product) {
    using namespace intaglio;
    const Window& w = *product->window;
    const int64_t columns = product->grad_input ? product->weight->in : product->weight->out;
    if (w.images * w.out_height * w.out_width == 0 || columns == 0) return;
    switch (level()) {
        case AVX2: return avx2::product(*product);
        case AVX_VNNI: return avxvnni::product(*product);
        case AVX512_VL: return avx512vl::product(*product);
        case AVX512: return avx512::product(*product, false);
        case AVX512_BF16: return avx512::product(*product, true);
    }
}
