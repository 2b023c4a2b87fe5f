// How the product by 256-bit registers cuts its operands, for every level that has no 512-bit ones.
//
// A panel holds, for every four steps of the reduction (a quad), 16 columns of 4 codes: 64 bytes. A tile is up to 6 rows of
// the left operand against one panel: 12 accumulators, a row's quad and two vectors of the panel in 16 registers.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace intaglio {
namespace {

constexpr int TILE_ROWS = 6;
constexpr int PANEL = 16;
constexpr int64_t REDUCTION = 1024;  // a panel and 6 rows stay in the L1 cache
constexpr int64_t STRIDE = REDUCTION + 64;  // elements from row to row: rows that are a power of two apart share cache sets
constexpr int64_t ROWS = 96;
constexpr int64_t CHUNK = 960;    // rows that a panel is unpacked for
constexpr int64_t COLUMNS = 128;  // with ROWS, the blocks of both operands and of the sums stay in the L2 cache
static_assert(CHUNK % ROWS == 0 && ROWS % TILE_ROWS == 0 && COLUMNS % PANEL == 0);

inline __m256i broadcast4(const uint8_t* p) {
    int32_t v;
    std::memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

// c[0 .. 8) += v: sums, a row of COLUMNS from the next.
inline void add_to(int32_t* c, __m256i v) {
    auto* p = reinterpret_cast<__m256i*>(c);
    _mm256_storeu_si256(p, _mm256_add_epi32(_mm256_loadu_si256(p), v));
}

// Keeps GCC from working on several rows at once, for which there are not enough registers: `x` names the first 16.
inline void in_order(__m256i& a, __m256i& b) { __asm__ volatile("" : "+x"(a), "+x"(b)); }

}  // namespace
}  // namespace intaglio
