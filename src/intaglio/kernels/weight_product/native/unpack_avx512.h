// From the weight in memory to panels of 32 columns, for either direction.
#pragma once
#include <immintrin.h>

#include "weight_product/native/weight_codes.h"
#include "weight_product/native/tiles_avx512.h"
#include "native/transpose_avx512.h"

namespace intaglio {
namespace avx512 {
namespace {

inline __m512i four_lanes(__m128i v) { return _mm512_broadcast_i32x4(v); }

// How rows are read, told once a call: inside of the loops nothing is left to ask.
enum class Kind {
    NIBBLES,  // 4 bits, taken as they are
    TABLE,    // 4 bits through a table that 64 neighbours share
    BYTES,    // 8 bits, taken as they are
    ANY,
};

// Reads rows of the weight as unsigned bytes, code + 128, 64 at a time.
struct Decoder {
    const Weight& w;
    Kind kind;
    __m512i plain_table;

    explicit Decoder(const Weight& weight) : w(weight) {
        const bool plain = !w.zero_point && !w.ratio;
        kind = w.bits == 8 ? (plain ? Kind::BYTES : Kind::ANY)
             : plain ? Kind::NIBBLES
             : w.groups == 1 || w.group_size % 64 == 0 ? Kind::TABLE : Kind::ANY;
        const __m128i nibbles = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
        plain_table = four_lanes(_mm_xor_si128(nibbles, _mm_set1_epi8(-128)));
    }

    __m512i table(int64_t o, int64_t k) const {
        static const float SIGNED[16] = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
        const int64_t at = o * w.groups + k / w.group_size;
        const float zero = w.zero_point ? static_cast<float>(w.zero_point[at]) : 0.0f;
        const __m128i signed_table = table_of(w.levels ? w.levels : SIGNED, zero, w.ratio ? w.ratio[at] : 1.0f);
        return four_lanes(_mm_xor_si128(signed_table, _mm_set1_epi8(-128)));
    }

    const uint8_t* address(int64_t o, int64_t k) const { return w.codes + o * w.row_bytes + (w.bits == 4 ? k >> 1 : k); }

    // Ask for the line that code `k` of row `o` lies in: rows are far apart, and the processor would not guess.
    void prefetch(int64_t o, int64_t k) const {
        if (o < w.out) __builtin_prefetch(address(o, k), 0, 2);
    }

    // Whether `whole` may read the 64 codes from `k` on.
    template <Kind KIND>
    bool is_whole(int64_t k, int64_t count) const {
        if (KIND == Kind::ANY || count < 64) return false;
        return KIND == Kind::BYTES || (!(k & 1) && (KIND == Kind::NIBBLES || w.groups == 1 || k % 64 == 0));
    }

    template <Kind KIND>
    inline __attribute__((always_inline)) __m512i whole(int64_t o, int64_t k) const {
        const uint8_t* from = address(o, k);
        if (KIND == Kind::BYTES) return _mm512_xor_si512(_mm512_loadu_si512(from), _mm512_set1_epi8(-128));
        const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
        const __m512i both = _mm512_or_si512(words, _mm512_slli_epi16(words, 4));
        const __m512i nibbles = _mm512_and_si512(both, _mm512_set1_epi8(15));
        return _mm512_shuffle_epi8(KIND == Kind::NIBBLES ? plain_table : table(o, k), nibbles);
    }

    // Codes [k, k + count) of row `o`, count <= 64; what lies beyond is anything.
    __attribute__((noinline)) __m512i part(int64_t o, int64_t k, int64_t count) const {
        alignas(64) int8_t codes[64 + 32] = {};
        product_codes(w, o, k, count, codes);
        return _mm512_xor_si512(_mm512_load_si512(codes), _mm512_set1_epi8(-128));
    }
};

// 128 codes of row `o` from the even column `k` on, two a byte, their signs turned round.
inline __m512i packed(const Decoder& decoder, int64_t o, int64_t k) {
    return _mm512_xor_si512(_mm512_loadu_si512(decoder.address(o, k)), _mm512_set1_epi8(static_cast<char>(0x88)));
}

// Such a code in the lower half of each byte -> code + 128.
inline __m512i unsigned_codes(__m512i v) {
    return _mm512_add_epi8(_mm512_and_si512(v, _mm512_set1_epi8(15)), _mm512_set1_epi8(0x78));
}

// Where panels lie: `panel(p)` has 128 bytes for each quad of the reduction from `first_quad` on.
struct Panels {
    uint8_t* data;
    int64_t bytes;  // from one panel to the next
    uint8_t* panel(int64_t p) const { return data + p * bytes; }
};

// 128 steps of 16 columns, rows `o` and on of the weight, to a half of a panel. Nibbles are transposed before they are
// spread: half of the shuffles.
inline void unpack_output_nibbles(const Decoder& decoder, int64_t o, int64_t k, uint8_t* to) {
    const __m512i low = _mm512_set1_epi64(0x2c2824200c080400), high = _mm512_set1_epi64(0x3c3834301c181410);  // bits
    __m512i r[16];
#pragma GCC unroll 16
    for (int64_t j = 0; j < 16; ++j) {
        decoder.prefetch(o + j + PANEL, k);
        r[j] = packed(decoder, o + j, k);
    }
    transpose(r);
#pragma GCC unroll 16
    for (int64_t q = 0; q < 16; ++q) {
        _mm512_store_si512(to + q * 256, unsigned_codes(_mm512_multishift_epi64_epi8(low, r[q])));
        _mm512_store_si512(to + q * 256 + 128, unsigned_codes(_mm512_multishift_epi64_epi8(high, r[q])));
    }
}

// Steps [k, k + count) of the panel of columns [n, n + columns), for `output`: a column is a row of the weight.
// `k` is a multiple of 64.
template <Kind KIND>
__attribute__((noinline)) void unpack_output(
    const Decoder& decoder, int64_t n, int64_t columns, int64_t k, int64_t count, uint8_t* panel) {
    for (int64_t half = 0; half < 2; ++half) {
        const int64_t first = n + half * 16, there = columns - half * 16;
        int64_t i = 0;
        for (; KIND == Kind::NIBBLES && there >= 16 && i + 128 <= count; i += 128)
            unpack_output_nibbles(decoder, first, k + i, panel + i / 4 * 128 + half * 64);
        for (; i < count; i += 64) {
            const int64_t here = count - i < 64 ? count - i : 64;
            __m512i r[16];
            if (there >= 16 && decoder.is_whole<KIND>(k + i, here)) {
#pragma GCC unroll 16
                for (int64_t j = 0; j < 16; ++j) {
                    decoder.prefetch(first + j + PANEL, k + i);
                    r[j] = decoder.whole<KIND>(first + j, k + i);
                }
            } else {
                for (int64_t j = 0; j < 16; ++j)
                    r[j] = j < there ? decoder.part(first + j, k + i, here) : _mm512_setzero_si512();
            }
            transpose(r);
            uint8_t* to = panel + i / 4 * 128 + half * 64;
            if (here == 64) {
#pragma GCC unroll 16
                for (int64_t q = 0; q < 16; ++q) _mm512_store_si512(to + q * 128, r[q]);
            } else {
                for (int64_t q = 0; q < (here + 3) / 4; ++q) _mm512_store_si512(to + q * 128, r[q]);
            }
        }
    }
}

constexpr int64_t AHEAD = 16;  // rows: what is unpacked while a line comes from memory

// A quad of 128 columns, rows row[0..3] of the weight from columns column[0..3] on, to four panels.
inline void unpack_grad_input_nibbles(const Decoder& decoder, const int64_t* row, const int64_t* column, int64_t bytes, uint8_t* to) {
    alignas(64) static const int16_t EVERY_FOURTH[32] = {0, 4, 8,  12, 16, 20, 24, 28, 1, 5, 9,  13, 17, 21, 25, 29,
                                                         2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31};
    const __m512i order = _mm512_load_si512(EVERY_FOURTH);
    __m512i r[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        decoder.prefetch(row[j] + AHEAD, column[j]);
        r[j] = _mm512_permutexvar_epi16(order, packed(decoder, row[j], column[j]));
    }
    const __m512i a = _mm512_unpacklo_epi8(r[0], r[1]), b = _mm512_unpackhi_epi8(r[0], r[1]);
    const __m512i d = _mm512_unpacklo_epi8(r[2], r[3]), e = _mm512_unpackhi_epi8(r[2], r[3]);
    // lane l of the i-th, byte by byte: columns 32 i + 4 l .. + 3, then 32 i + 16 + 4 l .. + 3
    const __m512i f[4] = {_mm512_unpacklo_epi16(a, d), _mm512_unpackhi_epi16(a, d),
                          _mm512_unpacklo_epi16(b, e), _mm512_unpackhi_epi16(b, e)};
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i, to += bytes) {
        const __m512i even = unsigned_codes(f[i]), odd = unsigned_codes(_mm512_srli_epi16(f[i], 4));
        _mm512_store_si512(to, _mm512_unpacklo_epi32(even, odd));
        _mm512_store_si512(to + 64, _mm512_unpackhi_epi32(even, odd));
    }
}

// Steps [k, k + count) of any number of panels, for `grad_input`: step r is tap r / out, output channel r % out; a column is an input
// channel.
template <Kind KIND>
__attribute__((noinline)) void unpack_grad_input(
    const Decoder& decoder, int64_t n, int64_t columns, int64_t k, int64_t count, const Panels& to) {
    const Weight& w = decoder.w;
    if (!count) return;  // no output channels, and nothing to divide by
    int64_t tap = k / w.out, o = k % w.out;
    for (int64_t q = 0; 4 * q < count; ++q) {
        int64_t row[4], column[4];
        for (int64_t j = 0; j < 4; ++j) {
            const bool inside = 4 * q + j < count;
            row[j] = inside ? o : row[0];  // what lies beyond meets zeros
            column[j] = inside ? tap * w.in + n : column[0];
            if (++o == w.out) {
                o = 0;
                ++tap;
            }
        }
        int64_t c = 0;
        const bool nibbles = KIND == Kind::NIBBLES && !((column[0] | column[1] | column[2] | column[3]) & 1);
        for (; nibbles && c + 128 <= columns; c += 128) {
            const int64_t from[4] = {column[0] + c, column[1] + c, column[2] + c, column[3] + c};
            unpack_grad_input_nibbles(decoder, row, from, to.bytes, to.panel(c / PANEL) + q * 128);
        }
        for (; c < columns; c += 64) {
            const int64_t here = columns - c < 64 ? columns - c : 64;
            __m512i r[4];
#pragma GCC unroll 4
            for (int64_t j = 0; j < 4; ++j) {
                decoder.prefetch(row[j] + AHEAD, column[j] + c);
                r[j] = decoder.is_whole<KIND>(column[j] + c, here) ? decoder.whole<KIND>(row[j], column[j] + c)
                                                                 : decoder.part(row[j], column[j] + c, here);
            }
            const __m512i a = _mm512_unpacklo_epi8(r[0], r[1]), b = _mm512_unpackhi_epi8(r[0], r[1]);
            const __m512i d = _mm512_unpacklo_epi8(r[2], r[3]), e = _mm512_unpackhi_epi8(r[2], r[3]);
            // lane l of the i-th: columns 16 l + 4 i .. + 3
            const __m512i f0 = _mm512_unpacklo_epi16(a, d), f1 = _mm512_unpackhi_epi16(a, d);
            const __m512i f2 = _mm512_unpacklo_epi16(b, e), f3 = _mm512_unpackhi_epi16(b, e);
            const __m512i low01 = _mm512_shuffle_i32x4(f0, f1, 0x44), low23 = _mm512_shuffle_i32x4(f2, f3, 0x44);
            const __m512i high01 = _mm512_shuffle_i32x4(f0, f1, 0xee), high23 = _mm512_shuffle_i32x4(f2, f3, 0xee);
            uint8_t* first = to.panel(c / PANEL) + q * 128;
            _mm512_store_si512(first, _mm512_shuffle_i32x4(low01, low23, 0x88));
            _mm512_store_si512(first + 64, _mm512_shuffle_i32x4(low01, low23, 0xdd));
            if (here <= PANEL) continue;
            uint8_t* second = first + to.bytes;
            _mm512_store_si512(second, _mm512_shuffle_i32x4(high01, high23, 0x88));
            _mm512_store_si512(second + 64, _mm512_shuffle_i32x4(high01, high23, 0xdd));
        }
    }
}

template <Kind KIND>
void unpack_as(
    const Decoder& decoder, bool grad_input, int64_t n, int64_t columns, int64_t k, int64_t count, const Panels& to) {
    if (grad_input) return unpack_grad_input<KIND>(decoder, n, columns, k, count, to);
    for (int64_t c = 0; c < columns; c += PANEL)
        unpack_output<KIND>(decoder, n + c, columns - c < PANEL ? columns - c : PANEL, k, count, to.panel(c / PANEL));
}

// The panels of columns [n, n + columns) over steps [k, k + count); `k` is a multiple of 64.
inline void unpack(
    const Decoder& decoder, bool grad_input, int64_t n, int64_t columns, int64_t k, int64_t count, const Panels& to) {
    switch (decoder.kind) {
        case Kind::NIBBLES: return unpack_as<Kind::NIBBLES>(decoder, grad_input, n, columns, k, count, to);
        case Kind::TABLE: return unpack_as<Kind::TABLE>(decoder, grad_input, n, columns, k, count, to);
        case Kind::BYTES: return unpack_as<Kind::BYTES>(decoder, grad_input, n, columns, k, count, to);
        default: return unpack_as<Kind::ANY>(decoder, grad_input, n, columns, k, count, to);
    }
}

}  // namespace
}  // namespace avx512
}  // namespace intaglio
