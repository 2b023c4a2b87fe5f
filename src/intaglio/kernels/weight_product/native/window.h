// Which pixels of the left operand an output row meets: what a convolution is, beside its arithmetic.
#pragma once
#include "weight_product/native/product.h"

namespace intaglio {
namespace {  // compiled anew for each level of instructions: the linker must not take one for another

// Walks over the output rows of a product, from row `m` on.
struct Pixels {
    const Product& p;
    const Window& w;
    int64_t image, y, x;

    Pixels(const Product& product, int64_t m) : p(product), w(*product.window) {
        image = m / (w.out_height * w.out_width);
        y = m / w.out_width % w.out_height;
        x = m % w.out_width;
    }
    void next() {
        if (++x < w.out_width) return;
        x = 0;
        if (++y < w.out_height) return;
        y = 0;
        ++image;
    }
    static bool along(bool back, int64_t& at, int64_t stride, int64_t pad, int64_t reach, int64_t size) {
        if (!back) {
            at = at * stride - pad + reach;
            return at >= 0 && at < size;
        }
        at += pad - reach;
        if (at < 0 || at % stride) return false;
        at /= stride;
        return at < size;
    }
    // The code of the first channel of the pixel that this row meets under `tap`; null outside of the image.
    const int8_t* under(int64_t tap) const {
        int64_t row = y, column = x;
        const int64_t ky = tap / w.kernel_width, kx = tap % w.kernel_width;
        if (!along(p.grad_input, row, w.stride_height, w.pad_height, ky * w.dilation_height, w.in_height)) return nullptr;
        if (!along(p.grad_input, column, w.stride_width, w.pad_width, kx * w.dilation_width, w.in_width)) return nullptr;
        return p.x + ((image * w.in_height + row) * w.in_width + column) * p.x_stride;
    }
};

}  // namespace
}  // namespace intaglio
