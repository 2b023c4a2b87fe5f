// Compiled for any x86-64: asked before anything else is called.

#include "abi.h"

extern "C" int intaglio_runs_here(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
}

extern "C" const char* intaglio_sources(void) { return INTAGLIO_SOURCES; }
