// Which instructions the kernels may use: the best that the processor has, or what `INTAGLIO_KERNELS` asks for.
#pragma once

namespace intaglio {

// In order of speed. Code for one serves those after it too, but for that of AVX_VNNI, which some AVX-512 machines lack.
enum Level : int {
    AVX2 = 0,         // with FMA
    AVX_VNNI = 1,     // AVX2 and VNNI as a part of AVX: Intel from Alder Lake on, AMD from Zen 5 on
    AVX512_VL = 2,    // AVX2 and VNNI as a part of AVX-512, with registers of 256 bits: Cascade Lake
    AVX512 = 3,       // F, BW, DQ, VL, VBMI, VNNI
    AVX512_BF16 = 4,  // and BF16
};

Level level();

}  // namespace intaglio
