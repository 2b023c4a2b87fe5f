// Every loop of the kernels on exact heap buffers, odd sizes first, against plain loops: `make sanitize` builds this with
// AddressSanitizer and UndefinedBehaviorSanitizer, so that any step outside of a buffer stops it.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "weight_product/native/product.h"
#include "sanitize.h"

namespace {

struct Case {
    int64_t bits, out, in, kernel, stride, pad, images, height, width, threads;
    int64_t group = 0;    // 0: one zero point of 0 and no ratio
    bool levels = false;  // a codebook, whose values are 16 floats
};

bool agrees(const Case& c, bool back) {
    const int64_t taps = c.kernel * c.kernel, reduction = taps * c.in;
    const int64_t row_bytes = c.bits == 4 ? (reduction + 1) / 2 : reduction;
    auto packed = exact<uint8_t>(c.out * row_bytes);
    const int64_t group = c.group ? c.group : reduction, groups = group ? (reduction + group - 1) / group : 0;
    auto zero = exact<int8_t>(c.out * groups);
    auto ratio = exact<float>(c.out * groups), levels = exact<float>(16);
    for (int64_t i = 0; i < c.out * groups; ++i) {
        zero[i] = static_cast<int8_t>(random_below(16) - 8);
        ratio[i] = static_cast<float>(random_below(1000)) / 1000.0f;
    }
    for (int i = 0; i < 16; ++i) levels[i] = static_cast<float>(random_below(255) - 127);
    std::vector<int> codes(c.out * reduction);
    for (int64_t o = 0; o < c.out; ++o)
        for (int64_t k = 0; k < reduction; ++k) {
            const int code = c.bits == 4 ? random_below(16) - 8 : (c.group ? random_below(200) - 100 : random_below(255) - 127);
            const int64_t at = o * groups + k / group;
            const float value = c.levels ? levels[code & 15] : static_cast<float>(code - zero[at]);
            codes[o * reduction + k] = c.group ? static_cast<int>(std::nearbyint(value * ratio[at])) : code;
            if (c.bits == 4)
                packed[o * row_bytes + k / 2] |= static_cast<uint8_t>((code & 15) << (k % 2 * 4));
            else
                packed[o * row_bytes + k] = static_cast<uint8_t>(code);
        }
    const int64_t out_height = (c.height + 2 * c.pad - c.kernel) / c.stride + 1;
    const int64_t out_width = (c.width + 2 * c.pad - c.kernel) / c.stride + 1;
    const int64_t from_height = back ? out_height : c.height, from_width = back ? out_width : c.width;
    const int64_t to_height = back ? c.height : out_height, to_width = back ? c.width : out_width;
    const int64_t channels = back ? c.out : c.in, columns = back ? c.in : c.out;
    auto x = exact<int8_t>(c.images * from_height * from_width * channels);
    for (int64_t i = 0; i < c.images * from_height * from_width * channels; ++i) x[i] = static_cast<int8_t>(random_below(256) - 128);
    auto got = exact<int32_t>(c.images * to_height * to_width * columns);
    std::vector<int64_t> expected(c.images * to_height * to_width * columns, 0);
    for (int64_t b = 0; b < c.images; ++b)
        for (int64_t y = 0; y < out_height; ++y)
            for (int64_t z = 0; z < out_width; ++z)
                for (int64_t t = 0; t < taps; ++t) {
                    const int64_t iy = y * c.stride - c.pad + t / c.kernel, iz = z * c.stride - c.pad + t % c.kernel;
                    if (iy < 0 || iy >= c.height || iz < 0 || iz >= c.width) continue;
                    const int64_t outer = (b * out_height + y) * out_width + z, inner = (b * c.height + iy) * c.width + iz;
                    for (int64_t o = 0; o < c.out; ++o)
                        for (int64_t i = 0; i < c.in; ++i) {
                            const int w = codes[o * reduction + t * c.in + i];
                            if (back)
                                expected[inner * c.in + i] += x[outer * c.out + o] * w;
                            else
                                expected[outer * c.out + o] += x[inner * c.in + i] * w;
                        }
                }
    const Weight weight{packed.get(), c.bits, row_bytes, c.out, taps, c.in, c.group && !c.levels ? zero.get() : nullptr,
                        c.group ? ratio.get() : nullptr, c.levels ? levels.get() : nullptr, groups, group ? group : 1};
    const Window window{c.images, from_height, from_width, to_height, to_width, c.kernel, c.kernel,
                        c.stride, c.stride,    c.pad,      c.pad,     1,        1};
    Product product{x.get(), channels, &weight, &window, back, 0, got.get(), columns, nullptr, 1, nullptr, nullptr, c.threads};
    for (uint64_t set : SETS) {
        if (!use(set)) continue;
        std::fill_n(got.get(), expected.size(), 0);
        intaglio_product(&product);
        for (size_t i = 0; i < expected.size(); ++i)
            if (got[i] != expected[i]) return false;
    }
    return true;
}

}  // namespace

int main() {
    const Case cases[] = {
        // bits, out, in, kernel, stride, pad, images, height, width, threads
        {8, 0, 3, 1, 1, 0, 1, 1, 2, 1},     {4, 3, 0, 1, 1, 0, 1, 1, 2, 1},    {4, 3, 5, 1, 1, 0, 0, 1, 2, 1},
        {8, 1, 1, 1, 1, 0, 1, 1, 1, 1},     {4, 1, 1, 1, 1, 0, 1, 1, 1, 2},    {4, 7, 5, 1, 1, 0, 1, 1, 13, 1},
        {8, 17, 33, 1, 1, 0, 1, 1, 7, 2},   {4, 33, 31, 3, 1, 1, 2, 5, 7, 1},  {8, 19, 17, 3, 2, 1, 2, 7, 5, 2},
        {4, 19, 17, 3, 2, 1, 2, 7, 5, 2},   {4, 131, 37, 2, 3, 0, 1, 8, 9, 2}, {8, 37, 131, 3, 1, 2, 1, 4, 3, 1},
        {4, 150, 1100, 1, 1, 0, 1, 1, 101, 2}, {8, 1100, 150, 1, 1, 0, 1, 1, 97, 1}, {4, 16, 8, 1, 1, 0, 1, 1, 1000, 2},
        {4, 9, 130, 3, 1, 1, 1, 6, 6, 3},
        {4, 19, 37, 1, 1, 0, 1, 1, 5, 1, 8, false}, {4, 33, 130, 1, 1, 0, 1, 1, 9, 2, 64, true}, {8, 17, 50, 1, 1, 0, 1, 1, 3, 1, 16},
        {4, 21, 24, 3, 1, 1, 1, 4, 5, 1, 64, true}, {4, 21, 23, 3, 1, 1, 1, 4, 5, 2, 64, false},
    };
    int failures = 0;
    for (const Case& c : cases)
        for (bool back : {false, true})
            if (!agrees(c, back)) {
                std::printf("wrong: %lld bits, %lld x %lld, kernel %lld, %s\n", static_cast<long long>(c.bits),
                            static_cast<long long>(c.out), static_cast<long long>(c.in), static_cast<long long>(c.kernel),
                            back ? "grad_input" : "output");
                ++failures;
            }
    std::printf("%d wrong of %d\n", failures, static_cast<int>(2 * sizeof cases / sizeof *cases));
    return failures != 0;
}
