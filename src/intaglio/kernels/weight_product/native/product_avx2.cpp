#include "weight_product/native/product_ymm.h"
#include "weight_product/native/tiles_avx2.h"

namespace intaglio::avx2 {

void product(const Product& p) { multiply<Avx2Tiles>(p); }

}  // namespace intaglio::avx2
