// What one core can do at most with INT8 codes: `vpdpbusd` on registers alone. Products are measured against it.

#include "native/features.h"
#include "native/library.h"

// Chains of accumulators in assembly: of an array of vectors GCC keeps some in memory, and the loop runs at half its speed.
#define ALL(step) step(0) step(1) step(2) step(3) step(4) step(5) step(6) step(7) step(8) step(9) step(10) step(11)
#define CLEAR(i) "vpxord %%zmm" #i ", %%zmm" #i ", %%zmm" #i "\n"
#define ADD(i) "vpdpbusd %%zmm12, %%zmm13, %%zmm" #i "\n"

extern "C" int64_t intaglio_int8_peak(int64_t rounds) {
    if ((intaglio::AVX512 & ~intaglio::features_in_use()) || rounds <= 0) return 0;
    int64_t left = rounds;
    __asm__ volatile(ALL(CLEAR) CLEAR(12) CLEAR(13)
                     ".p2align 6\n"
                     "1:\n" ALL(ADD)
                     "decq %0\n"
                     "jnz 1b\n"
                     "vzeroupper\n"
                     : "+r"(left)
                     :
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                       "xmm11", "xmm12", "xmm13");
    return rounds * 12 * 64 * 2;
}
