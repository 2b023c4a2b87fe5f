// Compiled for any processor: which code serves the products of a low-rank pair in integers.

#include "native/dispatch.h"
#include "low_rank/native/low_rank.h"

namespace intaglio {
namespace avx512 {
void low_rank_bf16(const LowRank& call);
void low_rank(const LowRank& call);
void token_sums(const TokenSums& call);
}  // namespace avx512
namespace {

const Entry<LowRank> LOW_RANK[] = {
    {"avx512bf16", AVX512_BF16, avx512::low_rank_bf16},
    {"avx512", AVX512, avx512::low_rank},
};
const Listed listed_low_rank("intaglio_low_rank", LOW_RANK);

const Entry<TokenSums> TOKEN_SUMS[] = {
    {"avx512", AVX512, avx512::token_sums},
};
const Listed listed_token_sums("intaglio_token_sums", TOKEN_SUMS);

}  // namespace
}  // namespace intaglio

extern "C" int intaglio_low_rank(const LowRank* call) { return intaglio::dispatch(intaglio::LOW_RANK, *call); }
extern "C" int intaglio_token_sums(const TokenSums* call) { return intaglio::dispatch(intaglio::TOKEN_SUMS, *call); }
