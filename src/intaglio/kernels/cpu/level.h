// Which instructions the kernels may use: the best that the processor has, or what `INTAGLIO_KERNELS` asks for.
#pragma once

namespace intaglio {

// In order: each has what those before it have.
enum Level : int {
    AVX2 = 0,         // with FMA
    AVX512 = 1,       // F, BW, DQ, VL, VBMI, VNNI
    AVX512_BF16 = 2,  // and BF16
};

Level level();

}  // namespace intaglio
