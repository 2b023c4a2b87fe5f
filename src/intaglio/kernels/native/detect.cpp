// Compiled for any processor: asked before anything else is called.

#include <string>

#include "native/dispatch.h"
#include "native/library.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace intaglio {
namespace {

const char* const NAMES =
    "avx2 fma avx_vnni avx512f avx512bw avx512dq avx512vl avx512_vbmi avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16";

#if defined(__x86_64__)
// Linux lends the tiles to who asks.
bool amx_is_granted() {
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

uint64_t detect() {
    uint64_t found = 0;
    if (__builtin_cpu_supports("avx2")) found |= HAS_AVX2;
    if (__builtin_cpu_supports("fma")) found |= HAS_FMA;
    if (__builtin_cpu_supports("avx512f")) found |= HAS_AVX512F;
    if (__builtin_cpu_supports("avx512bw")) found |= HAS_AVX512BW;
    if (__builtin_cpu_supports("avx512dq")) found |= HAS_AVX512DQ;
    if (__builtin_cpu_supports("avx512vl")) found |= HAS_AVX512VL;
    if (__builtin_cpu_supports("avx512vbmi")) found |= HAS_AVX512_VBMI;
    if (__builtin_cpu_supports("avx512vnni")) found |= HAS_AVX512_VNNI;
    if (__builtin_cpu_supports("avx512bf16")) found |= HAS_AVX512_BF16;
    // GCC 12 does not name these. What AVX2 needs of the system, AVX-VNNI needs.
    unsigned a, b, c, d;
    if ((found & HAS_AVX2) && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1)) found |= HAS_AVX_VNNI;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 1) && amx_is_granted()) {
        found |= HAS_AMX_TILE;
        if (d >> 25 & 1) found |= HAS_AMX_INT8;
        if (d >> 22 & 1) found |= HAS_AMX_BF16;
    }
    return found;
}
#else
uint64_t detect() { return 0; }
#endif

uint64_t detected() {
    static const uint64_t found = detect();
    return found;
}

uint64_t in_use = 0;

std::string& entries() {  // made by the first table, whatever the order of the units
    static std::string all;
    return all;
}

}  // namespace

uint64_t features_in_use() { return in_use; }

void list(const char* function, const char* name, uint64_t needs) {
    entries() += std::string(function) + " " + name + " " + std::to_string(needs) + ";";
}

}  // namespace intaglio

extern "C" const char* intaglio_sources(void) { return INTAGLIO_SOURCES; }

extern "C" const char* intaglio_feature_names(void) { return intaglio::NAMES; }

extern "C" uint64_t intaglio_detected(void) { return intaglio::detected(); }

extern "C" uint64_t intaglio_use(uint64_t features) { return intaglio::in_use = features & intaglio::detected(); }

extern "C" const char* intaglio_entries(void) { return intaglio::entries().c_str(); }
