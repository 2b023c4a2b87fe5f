// Compiled for any x86-64: asked before anything else is called.

#include "abi.h"
#include "level.h"

namespace intaglio {
namespace {

int best() {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return -1;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512vbmi") || !__builtin_cpu_supports("avx512vnni"))
        return AVX2;
    return __builtin_cpu_supports("avx512bf16") ? AVX512_BF16 : AVX512;
}

int chosen = AVX2;

}  // namespace

Level level() { return static_cast<Level>(chosen); }

}  // namespace intaglio

extern "C" int intaglio_best_level(void) { return intaglio::best(); }

extern "C" void intaglio_set_level(int level) { intaglio::chosen = level; }

extern "C" const char* intaglio_sources(void) { return INTAGLIO_SOURCES; }
