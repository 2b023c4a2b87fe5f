// The row-wise kernels on exact heap buffers, odd sizes first, at every level: `make sanitize` builds this with
// AddressSanitizer and UndefinedBehaviorSanitizer. Values are compared in the Python tests; here only levels with each other.

#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "../../src/intaglio/kernels/cpu/abi.h"

namespace {

uint32_t state = 1;
int random_below(int n) {
    state = state * 1664525u + 1013904223u;
    return static_cast<int>((state >> 8) % static_cast<uint32_t>(n));
}

// A block of its own, whose end the sanitizer guards.
template <typename T>
struct Exact {
    int64_t count;
    std::unique_ptr<T[]> data;
    explicit Exact(int64_t n) : count(n), data(new T[n > 0 ? n : 1]()) {}
    T* get() { return data.get(); }
    bool operator==(const Exact& other) const { return std::memcmp(data.get(), other.data.get(), count * sizeof(T)) == 0; }
};

template <typename T>
Exact<T> random_values(int64_t count) {
    Exact<T> values(count);
    for (int64_t i = 0; i < count; ++i) {
        const float v = static_cast<float>(random_below(2001) - 1000) / 300.0f;
        uint32_t bits;
        std::memcpy(&bits, &v, 4);
        if (sizeof(T) == 2) bits >>= 16;
        std::memcpy(values.get() + i, &bits, sizeof(T));
    }
    return values;
}

template <typename T>
bool rows_and_sums(int64_t groups, int64_t rows, int64_t columns) {
    const int64_t count = groups * rows * columns, type = sizeof(T) == 2 ? 2 : 1;
    auto x = random_values<T>(count);
    auto factor = random_values<float>(columns);
    bool same = true;
    for (int64_t variant = 0; variant < 4; ++variant) {
        std::vector<Exact<int8_t>> codes;
        std::vector<Exact<float>> scale, sums;
        for (int level = 0; level <= intaglio_best_level(); ++level) {
            intaglio_set_level(level);
            codes.emplace_back(count);
            scale.emplace_back(groups);
            sums.emplace_back(groups * columns);
            const Rows call{x.get(), type, columns, rows * columns, groups, rows, columns, variant & 1 ? factor.get() : nullptr,
                            1, variant >> 1, 7, codes.back().get(), scale.back().get(), 2};
            intaglio_quantize_rows(&call);
            const bool product = variant & 1;
            const ColumnSums sum{x.get(), type, columns, product ? codes.back().get() : nullptr, product ? scale.back().get() : nullptr,
                                 3, rows, groups, rows, columns, sums.back().get(), 2};
            intaglio_column_sums(&sum);
            same = same && codes.back() == codes[0] && scale.back() == scale[0] && sums.back() == sums[0];
        }
    }
    return same;
}

}  // namespace

int main() {
    int wrong = 0, done = 0;
    for (int64_t columns : {0, 1, 7, 31, 64, 65, 127, 257, 1031})
        for (int64_t rows : {1, 5, 67}) {
            wrong += !rows_and_sums<float>(3, rows, columns);
            wrong += !rows_and_sums<uint16_t>(3, rows, columns);
            done += 2;
        }
    std::printf("rows: %d wrong of %d\n", wrong, done);
    return wrong != 0;
}
