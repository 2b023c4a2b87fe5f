// Products with a low-rank pair on AVX2: float32 products of what bfloat16 holds, a block of the activation widened at a
// time.

#include "float_pair/native/float_pair.h"

#include <algorithm>
#include <cstdlib>

#include "native/float_tiles_avx2.h"

namespace intaglio {
namespace {

constexpr int64_t ROWS = 2 * TILE_ROWS;  // of the activation, widened at once
constexpr int64_t STEPS = 512;           // of the columns that `down` sums over, and of the tokens of `sums`: at once

struct Floats {  // kept between calls
    float* data = nullptr;
    int64_t size = 0;
    ~Floats() { std::free(data); }
    float* at_least(int64_t count) {
        if (count > size) {
            std::free(data);
            size = round_up(count, 1024);
            data = static_cast<float*>(std::aligned_alloc(64, size * sizeof(float)));
            if (!data) std::abort();
        }
        return data;
    }
};

thread_local Floats packed, block;

// `scale a`, rounded to bfloat16, as panels of 16 along one side: [panel][step][lane], zeros up to a whole panel. Every
// thread of the team takes a share.
struct Side {
    int64_t length, stride;
};
void pack(const FloatPair& p, Side lanes, Side steps, float* to) {
    const int64_t panels = round_up(lanes.length, PANEL) / PANEL;
    const __m256 scale = _mm256_set1_ps(p.scale);
#pragma omp for schedule(static)
    for (int64_t at = 0; at < panels * steps.length; ++at) {
        const int64_t first = at / steps.length * PANEL, step = at % steps.length;
        const float* from = p.a + first * lanes.stride + step * steps.stride;
        alignas(32) float values[PANEL] = {};
        for (int64_t lane = 0; lane < std::min(PANEL, lanes.length - first); ++lane) values[lane] = from[lane * lanes.stride];
        for (int64_t lane = 0; lane < PANEL; lane += EIGHT) {
            uint16_t words[EIGHT];
            store8(words, _mm256_mul_ps(load8(values + lane), scale));
            store8(to + at * PANEL + lane, load8(words));
        }
    }
}

void down_rows(const FloatPair& p, const float* a, int64_t row, int64_t rows) {
    const int64_t stride = odd_lines(STEPS), h_stride = round_up(p.rank, EIGHT);
    float *x = block.at_least(ROWS * (stride + h_stride)), *h = x + ROWS * stride;
    const uint16_t* from = static_cast<const uint16_t*>(p.x) + row * p.x_stride;
    std::fill(h, h + ROWS * h_stride, 0.0f);
    for (int64_t c = 0; c < p.columns; c += STEPS) {
        const int64_t here = std::min(STEPS, p.columns - c);
        for (int64_t r = 0; r < rows; ++r) widen(from + r * p.x_stride + c, here, 1.0f, x + r * stride);
        multiply({x, stride, 1}, {a + c * PANEL, PANEL, p.columns * PANEL}, rows, p.rank, here, h, h_stride, true);
    }
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < p.rank; c += EIGHT)
            store8(p.h + (row + r) * p.rank + c, load8(h + r * h_stride + c), p.rank - c);
}

void up_rows(const FloatPair& p, const float* a, int64_t row, int64_t rows) {
    const int64_t h_stride = round_up(p.rank, EIGHT), stride = odd_lines(STEPS);
    float *h = block.at_least(ROWS * (stride + h_stride)), *sums = h + ROWS * h_stride;
    for (int64_t r = 0; r < rows; ++r) widen(p.h + (row + r) * p.rank, p.rank, 1.0f, h + r * h_stride);
    for (int64_t c = 0; c < p.columns; c += STEPS) {
        const int64_t here = std::min(STEPS, p.columns - c);
        uint16_t* x = static_cast<uint16_t*>(p.x) + row * p.x_stride + c;
        for (int64_t r = 0; r < rows; ++r) widen(x + r * p.x_stride, here, 1.0f, sums + r * stride);
        multiply({h, h_stride, 1}, {a + c * p.rank, PANEL, p.rank * PANEL}, rows, here, p.rank, sums, stride, true);
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t i = 0; i < here; i += EIGHT) store8(x + r * p.x_stride + i, load8(sums + r * stride + i), here - i);
    }
}

// 16 columns of the sums.
template <typename T>
void sums_of(const FloatPair& p, const float* h, int64_t column) {
    const int64_t here = std::min(PANEL, p.columns - column);
    float *x = block.at_least((STEPS + p.rank) * PANEL), *sums = x + STEPS * PANEL;
    std::fill(sums, sums + p.rank * PANEL, 0.0f);
    for (int64_t m = 0; m < p.rows; m += STEPS) {
        const int64_t rows = std::min(STEPS, p.rows - m);
        const T* from = static_cast<const T*>(p.x) + m * p.x_stride + column;
        for (int64_t r = 0; r < rows; ++r) {
            store8(x + r * PANEL, load8(from + r * p.x_stride, here));
            if (here > EIGHT) store8(x + r * PANEL + EIGHT, load8(from + r * p.x_stride + EIGHT, here - EIGHT));
        }
        multiply({h + m * p.rank, 1, p.rank}, {x, PANEL, 0}, p.rank, here, rows, sums, PANEL, true);
    }
    const __m256 scale = _mm256_set1_ps(p.scale);
    for (int64_t r = 0; r < p.rank; ++r)
        for (int64_t c = 0; c < here; c += EIGHT)
            store8(p.sums + r * p.columns + column + c, _mm256_mul_ps(load8(sums + r * PANEL + c), scale), here - c);
}

void down(const FloatPair& p) {
    const int64_t blocks = (p.rows + ROWS - 1) / ROWS;
    float* a = packed.at_least(round_up(p.rank, PANEL) * p.columns);
#pragma omp parallel num_threads(p.threads) if (p.threads > 1 && blocks > 1)
    {
        pack(p, {p.rank, p.a_rank_stride}, {p.columns, p.a_column_stride}, a);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; ++b) down_rows(p, a, b * ROWS, std::min(ROWS, p.rows - b * ROWS));
    }
}

void up(const FloatPair& p) {
    const int64_t blocks = (p.rows + ROWS - 1) / ROWS;
    float* a = packed.at_least(round_up(p.columns, PANEL) * p.rank);
#pragma omp parallel num_threads(p.threads) if (p.threads > 1 && blocks > 1)
    {
        pack(p, {p.columns, p.a_column_stride}, {p.rank, p.a_rank_stride}, a);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; ++b) up_rows(p, a, b * ROWS, std::min(ROWS, p.rows - b * ROWS));
    }
}

void sums(const FloatPair& p) {
    float* h = packed.at_least(p.rows * p.rank + EIGHT);
    widen(p.h, p.rows * p.rank, 1.0f, h);
#pragma omp parallel for num_threads(p.threads) schedule(static) if (p.threads > 1)
    for (int64_t column = 0; column < p.columns; column += PANEL)
        p.x_type == 2 ? sums_of<uint16_t>(p, h, column) : sums_of<int8_t>(p, h, column);
}

}  // namespace

namespace avx2 {

void pair_down(const FloatPair& p) { down(p); }
void pair_up(const FloatPair& p) { up(p); }
void pair_sums(const FloatPair& p) { sums(p); }

}  // namespace avx2

}  // namespace intaglio
