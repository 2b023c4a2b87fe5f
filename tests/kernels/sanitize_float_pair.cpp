// The float products of a low-rank pair on exact heap buffers, against plain loops, at both levels that have their own code.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "float_pair/native/float_pair.h"
#include "sanitize.h"

namespace {

int small() {  // -8 .. 7: every product and sum here is exact in float32
    state = state * 1664525u + 1013904223u;
    return static_cast<int>(state >> 28) - 8;
}

uint16_t to_bfloat16(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

bool agrees(int64_t rows, int64_t columns, int64_t rank, int64_t threads) {
    std::vector<int> x(rows * columns), h(rows * rank), a(rank * columns);
    for (auto* numbers : {&x, &h, &a})
        for (int& v : *numbers) v = small();
    const auto exact = [](const std::vector<int>& from) {  // a block of its own, whose end the sanitizer guards
        auto to = std::unique_ptr<uint16_t[]>(new uint16_t[from.size()]);
        for (size_t i = 0; i < from.size(); ++i) to[i] = to_bfloat16(static_cast<float>(from[i]));
        return to;
    };
    auto x16 = exact(x), h16 = exact(h), made = exact(h), added = exact(x);
    std::unique_ptr<float[]> a32(new float[a.size()]), sums(new float[a.size()]);
    for (size_t i = 0; i < a.size(); ++i) a32[i] = static_cast<float>(a[i]);
    FloatPair call{rows, columns, rank, a32.get(), columns, 1, 1.0f, x16.get(), columns, 2, made.get(), sums.get(), threads};
    intaglio_pair_down(&call);
    call.h = h16.get();
    intaglio_pair_sums(&call);
    call.x = added.get();
    intaglio_pair_up(&call);
    bool fine = true;
    for (int64_t m = 0; m < rows; ++m) {
        for (int64_t r = 0; r < rank; ++r) {
            int sum = 0;
            for (int64_t c = 0; c < columns; ++c) sum += x[m * columns + c] * a[r * columns + c];
            fine = fine && made[m * rank + r] == to_bfloat16(static_cast<float>(sum));
        }
        for (int64_t c = 0; c < columns; ++c) {
            int sum = x[m * columns + c];
            for (int64_t r = 0; r < rank; ++r) sum += h[m * rank + r] * a[r * columns + c];
            fine = fine && added[m * columns + c] == to_bfloat16(static_cast<float>(sum));
        }
    }
    for (int64_t r = 0; r < rank; ++r)
        for (int64_t c = 0; c < columns; ++c) {
            int sum = 0;
            for (int64_t m = 0; m < rows; ++m) sum += h[m * rank + r] * x[m * columns + c];
            fine = fine && sums[r * columns + c] == static_cast<float>(sum);
        }
    return fine;
}

}  // namespace

int main() {
    int wrong = 0, done = 0;
    for (uint64_t set : {intaglio::AVX2, intaglio::AVX512_BF16}) {
        if (!use(set)) continue;
        for (int64_t rows : {1, 5, 13, 67})
            for (int64_t columns : {1, 7, 17, 64, 523})
                for (int64_t rank : {1, 3, 8, 17}) {
                    wrong += !agrees(rows, columns, rank, 1 + rank % 2);
                    ++done;
                }
    }
    std::printf("float pair: %d wrong of %d\n", wrong, done);
    return wrong != 0;
}
