// The product of INT8 rows with a frozen weight on AVX-512 VNNI, in either direction, for matrices and convolutions.
//
// The weight is unpacked once a call, by all threads together, into panels of 32 columns that share one scratch; a wide
// layer goes in groups of columns. Then blocks of rows are gathered from where the window finds them, so that a
// convolution needs no im2col buffer, and meet all panels while they lie in the L2 cache.

#include <omp.h>

#include <cstdlib>

#include "product.h"
#include "unpack_avx512.h"
#include "window.h"

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

// What a thread works on: rows [m, m + rows) of panels [first, last) of the group of columns that begins at `n`.
struct Block {
    const Product& p;
    const uint8_t* panels;
    int64_t reduction, quads, n, columns;  // of the whole group
    int64_t m, rows, first, last;
    int8_t* left;     // (rows, STRIDE)
    int32_t* totals;  // (rows): the sums of the left operand's rows
    int32_t* sums;    // (panels, tiles, TILE_ROWS, PANEL), one tile where the reduction is a single block
    bool bf16;
};

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
        b.totals[r] = (k ? b.totals[r] : 0) + _mm512_reduce_add_epi32(total);
    }
}

__attribute__((target("avx512bf16"))) __m256i to_bfloat16_native(__m512 v) {
    return (__m256i)_mm512_cvtneps_pbh(v);
}

inline __m256i to_bfloat16(__m512 v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(
        _mm512_mask_mov_epi32(_mm512_srli_epi32(rounded, 16), nan, _mm512_set1_epi32(0x7fc0)));
}

// The sums of a tile -> rows [m, m + rows) of columns [n, n + columns), columns <= PANEL.
__attribute__((noinline)) void store(
    const Block& b, int64_t m, int64_t rows, int64_t n, int64_t columns, const int32_t* sums, const int32_t* totals) {
    const Product& p = b.p;
    for (int half = 0; half < 2; ++half, n += 16, columns -= 16, sums += 16) {
        if (columns <= 0) return;
        const __mmask16 mask = columns >= 16 ? 0xffff : (1u << columns) - 1;
        const bool scaled = p.out_type != 0;
        const __m512 column_scale = scaled ? _mm512_maskz_loadu_ps(mask, p.column_scale + n) : _mm512_setzero_ps();
        const __m512 bias = scaled && p.bias ? _mm512_maskz_loadu_ps(mask, p.bias + n) : _mm512_setzero_ps();
        for (int64_t r = 0; r < rows; ++r) {
            const __m512i offset = _mm512_set1_epi32(static_cast<int32_t>(static_cast<uint32_t>(totals[r]) << 7));
            const __m512i sum = _mm512_sub_epi32(_mm512_load_si512(sums + r * PANEL), offset);
            const int64_t at = (m + r) * p.out_stride + n;
            if (!scaled) {
                _mm512_mask_storeu_epi32(static_cast<int32_t*>(p.out) + at, mask, sum);
                continue;
            }
            const __m512 row_scale = _mm512_set1_ps(p.row_scale[(m + r) / p.rows_per_scale]);
            __m512 v = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), row_scale), column_scale);
            if (p.bias) v = _mm512_add_ps(v, bias);
            if (p.out_type == 1)
                _mm512_mask_storeu_ps(static_cast<float*>(p.out) + at, mask, v);
            else
                _mm256_mask_storeu_epi16(
                    static_cast<uint16_t*>(p.out) + at, mask, b.bf16 ? to_bfloat16_native(v) : to_bfloat16(v));
        }
    }
}

void multiply(const Block& b) {
    const int64_t tiles = ceil_div(b.rows, TILE_ROWS);
    const bool once = b.reduction <= STEPS;
    for (int64_t k = 0; k == 0 || k < b.reduction; k += STEPS) {
        const int64_t count = least(STEPS, b.reduction - k), quads = (count + 3) / 4;
        gather(b, k, count);
        for (int64_t panel = b.first; panel < b.last; ++panel) {
            const uint8_t* from = b.panels + (panel * b.quads + k / 4) * 128;
            for (int64_t t = 0; t < tiles; ++t) {
                const int64_t row = t * b.rows / tiles, rows = (t + 1) * b.rows / tiles - row;
                int32_t* sums = b.sums + (once ? 0 : ((panel - b.first) * tiles + t) * TILE_ROWS * PANEL);
                tile(static_cast<int>(rows), b.left + row * STRIDE, from, quads, sums, k > 0);
                if (k + count >= b.reduction) {
                    const int64_t n = panel * PANEL;
                    store(b, b.m + row, rows, b.n + n, least(PANEL, b.columns - n), sums, b.totals + row);
                }
            }
        }
    }
}

// Every thread of the team calls this; `panels` is theirs in common.
void group(const Product& p, uint8_t* panels, int64_t n, int64_t columns, int64_t thread, int64_t threads, bool bf16) {
    const Weight& w = *p.weight;
    const Window& window = *p.window;
    const int64_t reduction = w.taps * (p.grad_input ? w.out : w.in), quads = (reduction + 3) / 4;
    const int64_t all = ceil_div(columns, PANEL), m = window.images * window.out_height * window.out_width;
    const Decoder decoder(w);
    if (p.grad_input)
        for (int64_t panel = 2 * thread; panel < all; panel += 2 * threads)
            unpack_grad_input(decoder, n + panel * PANEL, least(2 * PANEL, columns - panel * PANEL),
                panels + panel * quads * 128, panel + 1 < all ? panels + (panel + 1) * quads * 128 : nullptr);
    else
        for (int64_t panel = thread; panel < all; panel += threads)
            unpack_output(decoder, n + panel * PANEL, least(PANEL, columns - panel * PANEL), reduction,
                panels + panel * quads * 128);
#pragma omp barrier
    // Few rows: each thread takes some panels of all of them. Else blocks of rows, as many for every thread.
    const int64_t most_rows = reduction <= STEPS ? MOST_ROWS : MOST_ROWS / 2;
    const int64_t parts = m < 4 * TILE_ROWS * threads ? least(threads, all) : 1;
    int64_t blocks = ceil_div(m, most_rows);
    if (parts == 1) blocks = ceil_div(blocks, threads) * threads;
    const int64_t block_rows = ceil_div(m, blocks), block_panels = ceil_div(all, parts);
    const int64_t tiles = ceil_div(block_rows, TILE_ROWS);
    const int64_t sums = (reduction <= STEPS ? 1 : block_panels * tiles) * TILE_ROWS * PANEL;
    auto* buffer = static_cast<int8_t*>(
        row_buffer.at_least(block_rows * STRIDE + 64 + sums * 4 + (block_rows + 16) * 4));
    auto* partial = reinterpret_cast<int32_t*>(buffer);
    auto* left = buffer + sums * 4;
    auto* totals = reinterpret_cast<int32_t*>(left + ceil_div(block_rows * STRIDE, 64) * 64);
    for (int64_t task = thread; task < blocks * parts; task += threads) {
        const int64_t part = task % parts, block = task / parts;
        const int64_t from = block * m / blocks, to = (block + 1) * m / blocks;
        if (from == to) continue;
        multiply({p, panels, reduction, quads, n, columns, from, to - from, part * all / parts, (part + 1) * all / parts,
            left, totals, partial, bf16});
    }
#pragma omp barrier
}

}  // namespace

void product(const Product& p, bool bf16) {
    const int64_t columns = p.grad_input ? p.weight->in : p.weight->out;
    const int64_t reduction = p.weight->taps * (p.grad_input ? p.weight->out : p.weight->in);
    const int64_t panel_bytes = most(1, (reduction + 3) / 4) * 128;
    const int64_t at_once = most(2, SCRATCH / panel_bytes / 2 * 2) * PANEL;
    const int64_t groups = ceil_div(columns, at_once), width = ceil_div(ceil_div(columns, groups), 2 * PANEL) * 2 * PANEL;
    auto* panels = static_cast<uint8_t*>(panel_buffer.at_least(ceil_div(width, PANEL) * panel_bytes));
#pragma omp parallel num_threads(p.threads) if (p.threads > 1)
    for (int64_t n = 0; n < columns; n += width)
        group(p, panels, n, least(width, columns - n), omp_get_thread_num(), omp_get_num_threads(), bf16);
}

}  // namespace avx512
}  // namespace intaglio
