// The products of a low-rank pair and its quantizer on exact heap buffers, odd sizes first: `make sanitize` builds this with
// AddressSanitizer and UndefinedBehaviorSanitizer. Sums are compared with plain loops; all values in the Python tests.

#include <cstdio>
#include <initializer_list>
#include <memory>

#include "codes/native/codes.h"
#include "low_rank/native/low_rank.h"
#include "sanitize.h"

namespace {

std::unique_ptr<int8_t[]> codes(int64_t count) {
    auto made = exact<int8_t>(count);
    for (int64_t i = 0; i < count; ++i) made[i] = static_cast<int8_t>(random_below(255) - 127);
    return made;
}

std::unique_ptr<float[]> scales(int64_t count) {
    auto made = exact<float>(count);
    for (int64_t i = 0; i < count; ++i) made[i] = static_cast<float>(1 + random_below(100)) * 0x1p-10f;
    return made;
}

bool pair(int64_t rows, int64_t columns, int64_t rank, int64_t out_columns, bool transposed, bool by_row, int64_t type) {
    const auto x = codes(rows * columns), first = codes(rank * columns), second = codes(out_columns * rank);
    const int64_t groups = by_row ? rows : 1;
    const auto row_scale = scales(groups), first_scale = scales(rank), second_scale = scales(rank), by_column = scales(out_columns);
    const auto h = exact<int32_t>(rows * rank);
    const auto made = exact<int8_t>(rows * rank);
    const auto out = exact<uint16_t>(rows * out_columns * (type == 1 ? 2 : 1));
    const LowRank call{x.get(), columns, rows, columns, rank, first.get(), transposed ? 1 : columns, transposed ? rank : 1,
        h.get(), second.get(), transposed ? 1 : rank, transposed ? out_columns : 1, out_columns, row_scale.get(), groups,
        first_scale.get(), second_scale.get(), 127, by_row, made.get(), by_column.get(), out.get(), type, out_columns, 2};
    intaglio_low_rank(&call);
    bool right = true;
    for (int64_t m = 0; m < rows; ++m)
        for (int64_t j = 0; j < rank; ++j) {
            int32_t sum = 0;
            for (int64_t k = 0; k < columns; ++k) sum += x[m * columns + k] * first[transposed ? k * rank + j : j * columns + k];
            right = right && h[m * rank + j] == sum;
        }
    const auto gradient = exact<float>(rank * columns);
    const TokenSums sums{h.get(), rows, rank, row_scale.get(), row_scale.get(), groups, first_scale.get(), 127, by_row, transposed,
        7, x.get(), columns, columns, by_row ? by_column.get() : nullptr, 0.5, gradient.get(), transposed ? 1 : columns,
        transposed ? rank : 1, 2};
    if (!by_row || out_columns >= columns) intaglio_token_sums(&sums);
    return right;
}

template <typename T>
void quantizer(int64_t rows, int64_t columns) {
    const auto x = exact<T>(rows * columns);
    for (int64_t i = 0; i < rows * columns; ++i) x[i] = static_cast<T>(random_below(30000));
    const auto factor = scales(columns), divisor = scales(rows), scale = exact<float>(columns > rows ? columns : rows);
    const auto made = exact<int8_t>(rows * columns);
    for (int64_t groups : {int64_t{0}, int64_t{1}, rows}) {
        const Codes call{x.get(), sizeof(T) == 2 ? 2 : 1, columns, rows, columns, groups, groups ? factor.get() : nullptr,
            groups ? nullptr : divisor.get(), 127, groups == 1, 0x1p-100f, groups == rows, 3, made.get(), scale.get(), 2};
        intaglio_codes(&call);
    }
}

}  // namespace

int main() {
    if (!use(intaglio::AVX512)) {
        std::printf("low rank: no AVX-512 VNNI here\n");
        return 0;
    }
    int wrong = 0, done = 0;
    for (int64_t columns : {1, 3, 17, 64, 131})
        for (int64_t rank : {1, 4, 5, 16, 19})
            for (int64_t rows : {1, 18, 67})
                for (int variant = 0; variant < 8; ++variant) {
                    wrong += !pair(rows, columns, rank, variant & 1 ? 33 : 16, variant & 2, variant & 4, 1 + variant % 2);
                    ++done;
                }
    for (int64_t columns : {1, 15, 16, 33})
        for (int64_t rows : {1, 4, 9}) {
            quantizer<float>(rows, columns);
            quantizer<uint16_t>(rows, columns);
        }
    std::printf("low rank: %d wrong of %d\n", wrong, done);
    return wrong != 0;
}
