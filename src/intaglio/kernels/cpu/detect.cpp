// Compiled for any x86-64: asked before anything else is called.

#include <cpuid.h>

#include "abi.h"
#include "level.h"

namespace intaglio {
namespace {

// GCC 12 does not name it for `__builtin_cpu_supports`. What AVX2 needs of the system, AVX-VNNI needs.
bool has_avx_vnni() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

bool has(int level) {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
    const bool vl = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    const bool all = vl && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                     __builtin_cpu_supports("avx512vbmi");
    switch (level) {
        case AVX2: return true;
        case AVX_VNNI: return has_avx_vnni();
        case AVX512_VL: return vl;
        case AVX512: return all;
        case AVX512_BF16: return all && __builtin_cpu_supports("avx512bf16");
        default: return false;
    }
}

int chosen = AVX2;

}  // namespace

Level level() { return static_cast<Level>(chosen); }

}  // namespace intaglio

extern "C" int intaglio_has_level(int level) { return intaglio::has(level); }

extern "C" void intaglio_set_level(int level) { intaglio::chosen = level; }

extern "C" const char* intaglio_sources(void) { return INTAGLIO_SOURCES; }
