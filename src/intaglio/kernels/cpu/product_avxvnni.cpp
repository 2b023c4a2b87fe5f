#include "product_ymm.h"
#include "tiles_vnni_ymm.h"

void intaglio::avxvnni::product(const Product& p) { multiply<VnniTiles>(p); }
