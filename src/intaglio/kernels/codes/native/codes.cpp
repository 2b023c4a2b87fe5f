// Compiled for any processor: which code rounds to few bits.

#include "native/dispatch.h"
#include "codes/native/codes.h"

namespace intaglio {
namespace avx512 {
void codes(const Codes& call);
}  // namespace avx512
namespace {

const Entry<Codes> CODES[] = {
    {"avx512", AVX512, avx512::codes},
};
const Listed listed_codes("intaglio_codes", CODES);

}  // namespace
}  // namespace intaglio

extern "C" int intaglio_codes(const Codes* call) { return intaglio::dispatch(intaglio::CODES, *call); }
