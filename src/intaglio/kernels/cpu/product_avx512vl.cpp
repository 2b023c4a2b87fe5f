#include "product_ymm.h"
#include "tiles_vnni_ymm.h"

void intaglio::avx512vl::product(const Product& p) { multiply<VnniTiles>(p); }
