// One table an operation: what serves it, the best first, and what of the processor each entry needs. Only for units that
// are compiled for any processor.
#pragma once
#include <cstddef>
#include <type_traits>

#include "native/features.h"

namespace intaglio {

constexpr int NOT_SERVED = -1;

template <typename Call, typename Result = void>
struct Entry {
    const char* name;
    uint64_t needs;
    Result (*run)(const Call&);
};

// Runs the first entry whose features may all be used: 0 or what it returns, NOT_SERVED where there is none.
template <typename Call, typename Result, size_t N>
int dispatch(const Entry<Call, Result> (&table)[N], const Call& call) {
    const uint64_t there = features_in_use();
    for (const auto& entry : table) {
        if (entry.needs & ~there) continue;
        if constexpr (std::is_void_v<Result>) {
            entry.run(call);
            return 0;
        } else {
            return entry.run(call);
        }
    }
    return NOT_SERVED;
}

void list(const char* function, const char* name, uint64_t needs);

// Tells `intaglio_entries` what a table holds.
struct Listed {
    template <typename Call, typename Result, size_t N>
    Listed(const char* function, const Entry<Call, Result> (&table)[N]) {
        for (const auto& entry : table) list(function, entry.name, entry.needs);
    }
};

}  // namespace intaglio
