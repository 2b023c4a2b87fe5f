#include "weight_product/native/product_ymm.h"
#include "weight_product/native/tiles_vnni_ymm.h"

namespace intaglio::avxvnni {

void product(const Product& p) { multiply<VnniTiles>(p); }

}  // namespace intaglio::avxvnni
