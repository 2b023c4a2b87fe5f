// The product of INT8 rows with a frozen weight by 256-bit registers, in either direction, for matrices and convolutions.
//
// Columns are cut in blocks, each unpacked once for up to CHUNK rows; rows are gathered in blocks of ROWS from where the
// window finds them, so that a convolution needs no im2col buffer; sums over blocks of the reduction meet in int32.
// Codes of the left operand are offset by 128 to unsigned where the tile wants it, and the offset's share of the sums is
// taken off at the end. int32 wraps, so a sum that fits is right whatever the path to it.
#pragma once
#include <algorithm>
#include <memory>
#include <new>

#include "weight_product/native/product.h"
#include "weight_product/native/unpack_avx2.h"
#include "weight_product/native/window.h"

namespace intaglio {
namespace {

static_assert(REDUCTION <= MAX_BLOCK && COLUMNS <= MAX_BLOCK);

struct Scratch {  // of one thread, kept between calls
    alignas(64) int8_t panels[COLUMNS * REDUCTION];
    alignas(64) int16_t left[ROWS * STRIDE];
    alignas(64) int8_t temporary[PANEL * MAX_BLOCK + 64];
    alignas(64) int32_t sums[CHUNK * COLUMNS];
    alignas(64) int32_t offset[COLUMNS];
};

Scratch& scratch() {
    thread_local std::unique_ptr<Scratch> own(new Scratch);
    return *own;
}

inline void copy_codes(const int8_t* from, int64_t count, uint8_t* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>((from ? from[i] : 0) ^ 0x80);
}
inline void copy_codes(const int8_t* from, int64_t count, int16_t* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = from ? from[i] : 0;
}

// Rows [m, m + rows), steps [k, k + count) -> `to`, STRIDE elements from row to row.
template <typename T>
void gather(const Product& p, int64_t channels, int64_t m, int64_t rows, int64_t k, int64_t count, T* to) {
    Pixels at(p, m);
    for (int64_t r = 0; r < rows; ++r, at.next(), to += STRIDE) {
        for (int64_t i = 0; i < count;) {
            const int64_t tap = (k + i) / channels, channel = (k + i) % channels;
            const int64_t here = std::min(channels - channel, count - i);
            const int8_t* pixel = at.under(tap);
            copy_codes(pixel ? pixel + channel : nullptr, here, to + i);
            i += here;
        }
        for (int64_t i = count; i % 4; ++i) to[i] = 0;  // meets zeros of the panel
    }
}

template <class Tiles>
void tiles(const Tiles& t, const Scratch& s, int64_t rows, int64_t panels, int64_t quads, int32_t* sums) {
    for (int64_t p = 0; p < panels; ++p) {
        const int8_t* panel = s.panels + p * quads * 64;
        for (int64_t row = 0; row < rows; row += TILE_ROWS) {
            int32_t* c = sums + row * COLUMNS + p * PANEL;
            switch (std::min<int64_t>(rows - row, TILE_ROWS)) {
                case 1: t.template tile<1>(s.left, row, panel, quads, c); break;
                case 2: t.template tile<2>(s.left, row, panel, quads, c); break;
                case 3: t.template tile<3>(s.left, row, panel, quads, c); break;
                case 4: t.template tile<4>(s.left, row, panel, quads, c); break;
                case 5: t.template tile<5>(s.left, row, panel, quads, c); break;
                default: t.template tile<6>(s.left, row, panel, quads, c);
            }
        }
    }
}

inline uint16_t to_bfloat16(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

void store(const Product& p, int64_t m, int64_t rows, int64_t n, int64_t columns, const int32_t* sums, const int32_t* offset) {
    for (int64_t r = 0; r < rows; ++r, sums += COLUMNS) {
        const int64_t at = (m + r) * p.out_stride + n;
        if (p.out_type == 0) {
            auto* to = static_cast<int32_t*>(p.out) + at;
            for (int64_t j = 0; j < columns; ++j) to[j] = sums[j] - offset[j];
            continue;
        }
        const float scale = p.row_scale[(m + r) / p.rows_per_scale];
        const float* column_scale = p.column_scale + n;
        alignas(32) float rounded_later[COLUMNS];
        float* line = p.out_type == 1 ? static_cast<float*>(p.out) + at : rounded_later;
#pragma GCC ivdep
        for (int64_t j = 0; j < columns; ++j) line[j] = static_cast<float>(sums[j] - offset[j]) * scale * column_scale[j];
        if (p.bias)
            for (int64_t j = 0; j < columns; ++j) line[j] += p.bias[n + j];
        if (p.out_type == 2) {
            auto* to = static_cast<uint16_t*>(p.out) + at;
            for (int64_t j = 0; j < columns; ++j) to[j] = to_bfloat16(line[j]);
        }
    }
}

// Rows [m, m + rows) of columns [n, n + columns).
template <class Tiles>
void block(const Product& p, Scratch& s, int64_t m, int64_t rows, int64_t n, int64_t columns) {
    const Weight& w = *p.weight;
    const int64_t channels = p.grad_input ? w.out : w.in, reduction = w.taps * channels;
    const int64_t panels = (columns + PANEL - 1) / PANEL;
    const bool once = reduction <= REDUCTION;  // then the sums of one row block are done before the next begins
    std::memset(s.offset, 0, sizeof s.offset);
    if (!once) std::memset(s.sums, 0, rows * COLUMNS * sizeof(int32_t));
    for (int64_t k = 0; k < reduction || k == 0; k += REDUCTION) {
        const int64_t count = std::min(REDUCTION, reduction - k), quads = (count + 3) / 4;
        if (p.grad_input)
            unpack_grad_input(w, n, columns, k, count, s.temporary, s.panels);
        else
            unpack_output(w, n, columns, k, count, s.temporary, s.panels);
        alignas(32) int32_t offset[COLUMNS] = {};
        const Tiles t(panel_range(s.panels, panels, quads, offset));
        if (t.with_offset())
            for (int64_t j = 0; j < COLUMNS; ++j) s.offset[j] += offset[j];
        for (int64_t r = 0; r < rows; r += ROWS) {
            const int64_t here = std::min(ROWS, rows - r);
            int32_t* sums = s.sums + (once ? 0 : r * COLUMNS);
            if (once) std::memset(sums, 0, here * COLUMNS * sizeof(int32_t));
            if (t.with_offset())
                gather(p, channels, m + r, here, k, count, reinterpret_cast<uint8_t*>(s.left));
            else
                gather(p, channels, m + r, here, k, count, s.left);
            tiles(t, s, here, panels, quads, sums);
            if (k + count >= reduction) store(p, m + r, here, n, columns, sums, s.offset);
        }
    }
}

template <class Tiles>
void multiply(const Product& p) {
    const Window& w = *p.window;
    const int64_t rows = w.images * w.out_height * w.out_width;
    const int64_t columns = p.grad_input ? p.weight->in : p.weight->out;
    const int64_t all = (columns + PANEL - 1) / PANEL;
    int64_t parts = (all * PANEL + COLUMNS - 1) / COLUMNS;  // of the columns, even in number of panels
    if (parts % p.threads) parts = std::min(all, parts + p.threads - parts % p.threads);
    const int64_t chunks = (rows + CHUNK - 1) / CHUNK;
#pragma omp parallel for num_threads(p.threads) schedule(dynamic) if (p.threads > 1)
    for (int64_t task = 0; task < parts * chunks; ++task) {
        const int64_t part = task / chunks, m = task % chunks * CHUNK;
        const int64_t n = part * all / parts * PANEL, stop = std::min(columns, (part + 1) * all / parts * PANEL);
        block<Tiles>(p, scratch(), m, std::min(CHUNK, rows - m), n, stop - n);
    }
}

}  // namespace
}  // namespace intaglio
