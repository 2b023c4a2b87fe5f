// Attention on exact heap buffers, odd sizes first, against plain loops: `make sanitize` builds this with AddressSanitizer and
// UndefinedBehaviorSanitizer.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "attention/native/attention.h"
#include "sanitize.h"

namespace {

uint16_t to_bfloat16(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

double from_bfloat16(uint16_t v) {
    const uint32_t bits = static_cast<uint32_t>(v) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

struct Numbers {  // bfloat16 (heads, tokens, channels), dense
    int64_t heads, tokens, channels;
    std::unique_ptr<uint16_t[]> bits = exact<uint16_t>(heads * tokens * channels);
    Numbers(int64_t h, int64_t t, int64_t c) : heads(h), tokens(t), channels(c) {
        for (int64_t i = 0; i < h * t * c; ++i) bits[i] = to_bfloat16(static_cast<float>(random_below(2001) - 1000) / 1000.0f);
    }
    double at(int64_t h, int64_t t, int64_t c) const { return from_bfloat16(bits[(h * tokens + t) * channels + c]); }
    Tokens view() { return {bits.get(), 0, tokens * channels, channels}; }
};

bool near(const Numbers& got, int64_t head, const std::vector<double>& expected, double tolerance) {
    double largest = 0, error = 0;
    for (int64_t i = 0; i < got.tokens * got.channels; ++i) {
        largest = std::max(largest, std::fabs(expected[i]));
        error = std::max(error, std::fabs(expected[i] - got.at(head, i / got.channels, i % got.channels)));
    }
    return error <= tolerance * largest + 0.01;  // a wrong index shows; tests/kernels/test_attention.py has the bounds
}

bool attends(uint64_t set, int64_t heads, int64_t queries, int64_t keys, int64_t d, int64_t threads) {
    Numbers q(heads, queries, d), k(heads, keys, d), v(heads, keys, d), out(heads, queries, d), grad(heads, queries, d);
    Numbers grad_q(heads, queries, d), grad_k(heads, keys, d), grad_v(heads, keys, d);
    auto lse = exact<float>(heads * queries);
    const double scale = 1.0 / std::sqrt(static_cast<double>(d));
    const Attention forward{q.view(), k.view(), v.view(), out.view(), lse.get(), 1, heads, queries, keys, d, static_cast<float>(scale), threads};
    Numbers from_codes(heads, queries, d);
    Attention in_integers = forward;
    in_integers.out = from_codes.view();
    const bool with_integers = set == intaglio::AVX512_BF16;
    if (with_integers) intaglio_attention_int8(&in_integers);
    intaglio_attention(&forward);
    const AttentionGradient backward{&forward, grad.view(), grad_q.view(), grad_k.view(), grad_v.view()};
    intaglio_attention_gradient(&backward);
    bool fine = true;
    for (int64_t h = 0; h < heads; ++h) {
        std::vector<double> o(queries * d), dq(queries * d), dk(keys * d), dv(keys * d), p(keys);
        for (int64_t i = 0; i < queries; ++i) {
            double total = 0, offset = 0;
            for (int64_t j = 0; j < keys; ++j) {
                double score = 0;
                for (int64_t c = 0; c < d; ++c) score += q.at(h, i, c) * k.at(h, j, c);
                total += p[j] = std::exp(scale * score);
            }
            for (int64_t j = 0; j < keys; ++j)
                for (int64_t c = 0; c < d; ++c) o[i * d + c] += p[j] / total * v.at(h, j, c);
            for (int64_t c = 0; c < d; ++c) offset += grad.at(h, i, c) * o[i * d + c];
            for (int64_t j = 0; j < keys; ++j) {
                double dp = 0;
                for (int64_t c = 0; c < d; ++c) dp += grad.at(h, i, c) * v.at(h, j, c);
                const double ds = scale * p[j] / total * (dp - offset);
                for (int64_t c = 0; c < d; ++c) {
                    dq[i * d + c] += ds * k.at(h, j, c);
                    dk[j * d + c] += ds * q.at(h, i, c);
                    dv[j * d + c] += p[j] / total * grad.at(h, i, c);
                }
            }
        }
        fine = fine && near(out, h, o, 0.03) && (!with_integers || near(from_codes, h, o, 0.1));
        fine = fine && near(grad_q, h, dq, 0.03) && near(grad_k, h, dk, 0.03) && near(grad_v, h, dv, 0.03);
    }
    return fine;
}

}  // namespace

int main() {
    int wrong = 0, all = 0;
    for (uint64_t set : {intaglio::AVX2, intaglio::AVX512_BF16}) {
        if (!use(set)) continue;
        for (int64_t d : {1, 7, 31, 40, 80, 129})
            for (int64_t queries : {1, 15, 33, 131})
                for (int64_t keys : {1, 15, 77, 131}) {
                    const bool fine = attends(set, 2, queries, keys, d, 1 + d % 4);
                    if (!fine)
                        std::printf("wrong: attention of %d queries, %d keys, %d channels\n", static_cast<int>(queries),
                                    static_cast<int>(keys), static_cast<int>(d));
                    wrong += !fine;
                    ++all;
                }
    }
    std::printf("%d wrong of %d\n", wrong, all);
    return wrong != 0;
}
