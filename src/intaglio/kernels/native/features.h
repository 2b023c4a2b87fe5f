// What of a processor the kernels may use: a set of features, not a line from worse to better. `kernels/isa.py` has the
// same names.
#pragma once
#include <cstdint>

namespace intaglio {

enum Feature : uint64_t {
    HAS_AVX2 = 1 << 0,
    HAS_FMA = 1 << 1,
    HAS_AVX_VNNI = 1 << 2,  // VNNI as a part of AVX: Intel from Alder Lake on, AMD from Zen 5 on
    HAS_AVX512F = 1 << 3,
    HAS_AVX512BW = 1 << 4,
    HAS_AVX512DQ = 1 << 5,
    HAS_AVX512VL = 1 << 6,
    HAS_AVX512_VBMI = 1 << 7,
    HAS_AVX512_VNNI = 1 << 8,
    HAS_AVX512_BF16 = 1 << 9,
    HAS_AMX_TILE = 1 << 10,
    HAS_AMX_INT8 = 1 << 11,
    HAS_AMX_BF16 = 1 << 12,
};

// What a unit may assume, by the end of its name: `product_avx2.cpp` (`build.FLAGS_OF`).
constexpr uint64_t AVX2 = HAS_AVX2 | HAS_FMA;
constexpr uint64_t AVX_VNNI = AVX2 | HAS_AVX_VNNI;
constexpr uint64_t AVX512_VL = AVX2 | HAS_AVX512F | HAS_AVX512VL | HAS_AVX512_VNNI;
constexpr uint64_t AVX512 = AVX512_VL | HAS_AVX512BW | HAS_AVX512DQ | HAS_AVX512_VBMI;
constexpr uint64_t AVX512_BF16 = AVX512 | HAS_AVX512_BF16;

// Those that may be used now: never one that the processor lacks.
uint64_t features_in_use();

}  // namespace intaglio
