// Compiled for any processor: which code serves the product with a frozen weight.

#include "native/dispatch.h"
#include "weight_product/native/product.h"

namespace intaglio {
namespace avx512 {
void product_bf16(const Product& call);
void product(const Product& call);
}  // namespace avx512
namespace avx512vl {
void product(const Product& call);
}  // namespace avx512vl
namespace avxvnni {
void product(const Product& call);
}  // namespace avxvnni
namespace avx2 {
void product(const Product& call);
}  // namespace avx2
namespace {

const Entry<Product> PRODUCT[] = {
    {"avx512bf16", AVX512_BF16, avx512::product_bf16},
    {"avx512", AVX512, avx512::product},
    {"avx512vl", AVX512_VL, avx512vl::product},
    {"avxvnni", AVX_VNNI, avxvnni::product},
    {"avx2", AVX2, avx2::product},
};
const Listed listed_product("intaglio_product", PRODUCT);

}  // namespace
}  // namespace intaglio

extern "C" int intaglio_product(const Product* call) {
    const Window& w = *call->window;
    const int64_t columns = call->grad_input ? call->weight->in : call->weight->out;
    if (w.images * w.out_height * w.out_width == 0 || columns == 0) return 0;
    return intaglio::dispatch(intaglio::PRODUCT, *call);
}
