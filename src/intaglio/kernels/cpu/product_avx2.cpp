#include "product_ymm.h"
#include "tiles_avx2.h"

void intaglio::avx2::product(const Product& p) { multiply<Avx2Tiles>(p); }
