// The product of INT8 rows with a frozen weight on AVX-512 VNNI, in either direction, for matrices and convolutions.
//
// The weight is unpacked once a call into panels of 32 columns; blocks of rows are gathered from where the window finds
// them, so that a convolution needs no im2col buffer, and meet the panels while they lie in the L2 cache. With many rows
// all threads unpack into one scratch, a group of columns at a time, and each takes blocks of rows. With few rows each
// thread takes columns of its own, and unpacks no more of them at a time than stays in its cache.

#include <omp.h>

#include <cstdlib>

#include "weight_product/native/product.h"
#include "weight_product/native/unpack_avx512.h"
#include "weight_product/native/window.h"

namespace intaglio {
namespace avx512 {
namespace {

constexpr int64_t SCRATCH = 16 << 20;  // bytes of unpacked panels, unless a single one is larger
constexpr int64_t MOST_ROWS = 112;     // a block of rows: with STRIDE, a quarter of the L2 cache

struct Buffer {  // kept between calls
    void* data = nullptr;
    int64_t size = 0;
    ~Buffer() { std::free(data); }
    void* at_least(int64_t bytes) {
        if (bytes > size) {
            std::free(data);
            size = (bytes + 4095) / 4096 * 4096;
            data = std::aligned_alloc(4096, size);
            if (!data) std::abort();
        }
        return data;
    }
};

thread_local Buffer panel_buffer, row_buffer;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Block;
using Store = void (*)(const Block&, int64_t row, int64_t rows, int64_t n, int64_t columns, const int32_t* sums);

// Rows [m, m + rows) of the result, and what a thread keeps of them.
struct Block {
    const Product& p;
    int64_t reduction, steps;  // the whole, and how much of it at a time
    int64_t m, rows;
    Store store;
    int8_t* left;       // (rows, STRIDE): one block of the reduction
    int32_t* totals;    // (rows): 128 times the sum of each row of the left operand
    float* row_scales;  // (rows)
    int32_t* sums;      // (panels, tiles, TILE_ROWS, PANEL); one tile where the reduction is a single block

    int64_t tiles() const { return ceil_div(rows, TILE_ROWS); }
    int64_t first_row(int64_t tile) const { return tile * rows / tiles(); }
};

Store store_for(const Product& p, bool bf16);

// A block's memory in one piece, for up to `rows` rows and `panels` panels at a time.
Block block_of(const Product& p, int64_t reduction, int64_t steps, int64_t rows, int64_t panels, bool bf16) {
    const int64_t sums = (reduction <= steps ? 1 : panels * ceil_div(rows, TILE_ROWS)) * TILE_ROWS * PANEL;
    const int64_t left = ceil_div(rows * STRIDE, 64) * 64, line = ceil_div(rows, 16) * 64;
    auto* data = static_cast<int8_t*>(row_buffer.at_least(sums * 4 + left + 2 * line));
    return {p, reduction, steps, 0, 0, store_for(p, bf16), data + sums * 4, reinterpret_cast<int32_t*>(data + sums * 4 + left),
        reinterpret_cast<float*>(data + sums * 4 + left + line), reinterpret_cast<int32_t*>(data)};
}

// `count` codes to `to`, 64 at a time; returns the sums in lanes added to `total`.
inline __m512i copy_codes(const int8_t* from, int64_t count, int8_t* to, __m512i total) {
    const __m512i ones = _mm512_set1_epi8(1);
    int64_t i = 0;
    for (; i + 64 <= count; i += 64) {
        const __m512i v = _mm512_loadu_si512(from + i);
        _mm512_storeu_si512(to + i, v);
        total = _mm512_dpbusd_epi32(total, ones, v);
    }
    if (i < count) {
        const __mmask64 mask = (1ull << (count - i)) - 1;
        const __m512i v = _mm512_maskz_loadu_epi8(mask, from + i);
        _mm512_mask_storeu_epi8(to + i, mask, v);
        total = _mm512_dpbusd_epi32(total, ones, v);
    }
    return total;
}

// Steps [k, k + count) of the block's rows -> `left`, and their sums onto `totals`.
__attribute__((noinline)) void gather(const Block& b, int64_t k, int64_t count) {
    const int64_t channels = b.p.grad_input ? b.p.weight->out : b.p.weight->in;
    Pixels at(b.p, b.m);
    for (int64_t r = 0; r < b.rows; ++r, at.next()) {
        int8_t* to = b.left + r * STRIDE;
        __m512i total = _mm512_setzero_si512();
        int64_t tap = channels ? k / channels : 0, channel = channels ? k % channels : 0;
        for (int64_t i = 0; i < count; ++tap, channel = 0) {
            const int64_t here = least(channels - channel, count - i);
            const int8_t* pixel = at.under(tap);
            if (pixel)
                total = copy_codes(pixel + channel, here, to + i, total);
            else
                std::memset(to + i, 0, here);
            i += here;
        }
        std::memset(to + count, 0, (4 - count % 4) % 4);  // meets anything in the panel
        b.totals[r] = (k ? b.totals[r] : 0) + 128 * _mm512_reduce_add_epi32(total);
    }
    if (k || !b.p.out_type) return;
    for (int64_t r = 0; r < b.rows; ++r) b.row_scales[r] = b.p.row_scale[(b.m + r) / b.p.rows_per_scale];
}

// 32 floats -> words. In assembly, so that it inlines into code for machines without the instruction, where it is not reached.
inline __m512i to_bfloat16_native(__m512 low, __m512 high) {
    __m512i rounded;
    __asm__("vcvtne2ps2bf16 %1, %2, %0" : "=v"(rounded) : "v"(low), "v"(high));
    return rounded;
}

inline __m256i to_bfloat16(__m512 v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(
        _mm512_mask_mov_epi32(_mm512_srli_epi32(rounded, 16), nan, _mm512_set1_epi32(0x7fc0)));
}

inline __m512i to_bfloat16(__m512 low, __m512 high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(to_bfloat16(low)), to_bfloat16(high), 1);
}

enum class Stored { INT32, FLOAT32, BF16, BF16_NATIVE };

// 32 columns of a row, or those of the mask: a masked store takes longer.
template <Stored AS>
inline void store_row(const Product& p, int64_t at, const __m512i sums[2], const __m512 v[2], bool whole, uint32_t mask) {
    constexpr bool WORDS = AS == Stored::BF16 || AS == Stored::BF16_NATIVE;
    if (WORDS) {
        const __m512i words = AS == Stored::BF16 ? to_bfloat16(v[0], v[1]) : to_bfloat16_native(v[0], v[1]);
        auto* to = static_cast<uint16_t*>(p.out) + at;
        whole ? _mm512_storeu_si512(to, words) : _mm512_mask_storeu_epi16(to, mask, words);
        return;
    }
    auto* to = static_cast<int32_t*>(p.out) + at;
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
        const __m512i lanes = AS == Stored::INT32 ? sums[h] : _mm512_castps_si512(v[h]);
        whole ? _mm512_storeu_si512(to + 16 * h, lanes)
              : _mm512_mask_storeu_epi32(to + 16 * h, static_cast<__mmask16>(mask >> (16 * h)), lanes);
    }
}

// The sums of a tile -> rows [row, row + rows) of the block, columns [n, n + columns), columns <= PANEL.
template <Stored AS>
__attribute__((noinline)) void store(
    const Block& b, int64_t row, int64_t rows, int64_t n, int64_t columns, const int32_t* sums) {
    const Product& p = b.p;
    const int64_t stride = p.out_stride;
    const bool whole = columns == PANEL, with_bias = p.bias;
    const uint32_t mask = whole ? ~0u : (1u << columns) - 1;
    __m512 column_scale[2] = {}, bias[2] = {};
    for (int h = 0; h < 2 && AS != Stored::INT32; ++h) {
        const auto half = static_cast<__mmask16>(mask >> (16 * h));
        column_scale[h] = _mm512_maskz_loadu_ps(half, p.column_scale + n + 16 * h);
        if (with_bias) bias[h] = _mm512_maskz_loadu_ps(half, p.bias + n + 16 * h);
    }
    int64_t at = (b.m + row) * stride + n;
    for (int64_t r = 0; r < rows; ++r, at += stride, sums += PANEL) {
        const __m512i total = _mm512_set1_epi32(b.totals[row + r]);
        const __m512i sum[2] = {_mm512_sub_epi32(_mm512_load_si512(sums), total),
                                _mm512_sub_epi32(_mm512_load_si512(sums + 16), total)};
        __m512 v[2] = {};
#pragma GCC unroll 2
        for (int h = 0; h < 2 && AS != Stored::INT32; ++h) {
            v[h] = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[h]), _mm512_set1_ps(b.row_scales[row + r]));
            v[h] = _mm512_mul_ps(v[h], column_scale[h]);
            if (with_bias) v[h] = _mm512_add_ps(v[h], bias[h]);
        }
        store_row<AS>(p, at, sum, v, whole, mask);
    }
}

Store store_for(const Product& p, bool bf16) {
    if (p.out_type == 0) return store<Stored::INT32>;
    if (p.out_type == 1) return store<Stored::FLOAT32>;
    return bf16 ? store<Stored::BF16_NATIVE> : store<Stored::BF16>;
}

// The lines that a tile's result will be written to: they arrive while it is computed.
inline void prefetch(const Block& b, int64_t row, int64_t rows, int64_t n) {
    const int64_t size = b.p.out_type == 2 ? 2 : 4;
    const char* line = static_cast<const char*>(b.p.out) + ((b.m + row) * b.p.out_stride + n) * size;
    for (int64_t r = 0; r < rows; ++r, line += b.p.out_stride * size) {
        __builtin_prefetch(line, 1);
        if (size == 4) __builtin_prefetch(line + 64, 1);
    }
}

// The block's rows against one panel of columns [n, n + columns) over steps [k, k + count), which are in `left`. `next` is
// the panel after it: the first two tiles ask for a half of it each.
void multiply(const Block& b, const uint8_t* panel, const uint8_t* next, int64_t n, int64_t columns, int64_t k, int64_t count,
    int32_t* sums) {
    const bool once = b.reduction <= b.steps, last = k + count >= b.reduction;
    for (int64_t t = 0; t < b.tiles(); ++t) {
        const int64_t row = b.first_row(t), rows = b.first_row(t + 1) - row;
        if (last) prefetch(b, row, rows, n);
        const int64_t quads = (count + 3) / 4;
        tile(static_cast<int>(rows), b.left + row * STRIDE, panel, quads, sums, k > 0, next + (t & 1) * quads * 64);
        if (last) b.store(b, row, rows, n, columns, sums);
        if (!once) sums += TILE_ROWS * PANEL;
    }
}

// Few rows: all of them against columns [n, stop), by one thread. It reads the weight along its rows as far as its cache
// allows: of `output` these are steps, of `grad_input` columns.
void by_columns(const Product& p, int64_t reduction, int64_t rows, int64_t n, int64_t stop, bool bf16) {
    const int64_t steps = STEPS / 4, width = (p.grad_input ? 10 : 4) * PANEL;
    const Decoder decoder(*p.weight);
    Block b = block_of(p, reduction, steps, rows, ceil_div(stop - n, PANEL), bf16);
    b.rows = rows;
    const Panels panels = {static_cast<uint8_t*>(panel_buffer.at_least(width * steps)), steps * PANEL};
    for (int64_t k = 0; k == 0 || k < reduction; k += steps) {
        const int64_t count = least(steps, reduction - k);
        gather(b, k, count);
        int32_t* sums = b.sums;
        for (int64_t c = n; c < stop; c += width) {
            const int64_t columns = least(width, stop - c);
            unpack(decoder, p.grad_input, c, columns, k, count, panels);
            for (int64_t i = 0; i < columns; i += PANEL) {
                multiply(b, panels.panel(i / PANEL), panels.panel(i / PANEL), c + i, least(PANEL, columns - i), k, count, sums);
                if (reduction > steps) sums += b.tiles() * TILE_ROWS * PANEL;
            }
        }
    }
}

// Many rows: every thread of the team calls this; the panels of columns [n, stop) are theirs in common.
void by_rows(const Product& p, const Panels& panels, int64_t reduction, int64_t rows, int64_t n, int64_t stop, bool bf16) {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    constexpr int64_t AT_ONCE = 128, WIDE = 20 * PANEL;  // steps and columns of one piece
    const int64_t cuts = most(1, ceil_div(reduction, AT_ONCE)), pieces = ceil_div(stop - n, WIDE) * cuts;
    const Decoder decoder(*p.weight);
    for (int64_t piece = thread; piece < pieces; piece += threads) {
        const int64_t k = piece % cuts * AT_ONCE, c = piece / cuts * WIDE;
        const Panels to = {panels.panel(c / PANEL) + k * PANEL, panels.bytes};
        unpack(decoder, p.grad_input, n + c, least(WIDE, stop - n - c), k, least(AT_ONCE, reduction - k), to);
    }
#pragma omp barrier
    const int64_t most_rows = reduction <= STEPS ? MOST_ROWS : MOST_ROWS / 2;
    const int64_t blocks = ceil_div(ceil_div(rows, most_rows), threads) * threads;  // as many for every thread
    Block b = block_of(p, reduction, STEPS, ceil_div(rows, blocks), ceil_div(stop - n, PANEL), bf16);
    for (int64_t block = thread; block < blocks; block += threads) {
        b.m = block * rows / blocks;
        b.rows = (block + 1) * rows / blocks - b.m;
        if (!b.rows) continue;
        for (int64_t k = 0; k == 0 || k < reduction; k += STEPS) {
            const int64_t count = least(STEPS, reduction - k);
            gather(b, k, count);
            int32_t* sums = b.sums;
            for (int64_t c = n; c < stop; c += PANEL) {
                const uint8_t* panel = panels.panel((c - n) / PANEL) + k * PANEL;
                multiply(b, panel, c + PANEL < stop ? panel + panels.bytes : panel, c, least(PANEL, stop - c), k, count, sums);
                if (reduction > STEPS) sums += b.tiles() * TILE_ROWS * PANEL;
            }
        }
    }
#pragma omp barrier
}

}  // namespace

static void either(const Product& p, bool bf16) {
    const Window& w = *p.window;
    const int64_t columns = p.grad_input ? p.weight->in : p.weight->out;
    const int64_t reduction = p.weight->taps * (p.grad_input ? p.weight->out : p.weight->in);
    const int64_t rows = w.images * w.out_height * w.out_width;
    if (rows <= MOST_ROWS) {
        const int64_t all = ceil_div(columns, PANEL), parts = least(p.threads, all);
#pragma omp parallel for num_threads(parts) schedule(static) if (parts > 1)
        for (int64_t part = 0; part < parts; ++part)
            by_columns(p, reduction, rows, part * all / parts * PANEL, least(columns, (part + 1) * all / parts * PANEL), bf16);
        return;
    }
    const int64_t bytes = most(1, (reduction + 3) / 4) * 128;
    const int64_t at_once = most(1, SCRATCH / bytes) * PANEL, groups = ceil_div(columns, at_once);
    const int64_t width = ceil_div(ceil_div(columns, groups), PANEL) * PANEL;
    const Panels panels = {static_cast<uint8_t*>(panel_buffer.at_least(width / PANEL * bytes)), bytes};
#pragma omp parallel num_threads(p.threads) if (p.threads > 1)
    for (int64_t n = 0; n < columns; n += width) by_rows(p, panels, reduction, rows, n, least(columns, n + width), bf16);
}

void product(const Product& p) { either(p, false); }
void product_bf16(const Product& p) { either(p, true); }

}  // namespace avx512
}  // namespace intaglio
