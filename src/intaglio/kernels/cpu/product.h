// The product for each level of instructions.
#pragma once
#include "abi.h"

namespace intaglio {
namespace avx2 {
void product(const Product& product);
}
namespace avxvnni {
void product(const Product& product);
}
namespace avx512vl {
void product(const Product& product);
}
namespace avx512 {
void product(const Product& product, bool bf16);
}
}  // namespace intaglio
