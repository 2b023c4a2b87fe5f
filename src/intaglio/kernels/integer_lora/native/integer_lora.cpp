// Compiled for any processor: which code serves a layer of `int8_lora`.

#include "native/dispatch.h"
#include "integer_lora/native/integer_lora.h"

namespace intaglio {
namespace avx512 {
int integer_lora_forward(const IntegerLora& call);
int integer_lora_backward(const IntegerLora& call);
}  // namespace avx512
namespace {

const Entry<IntegerLora, int> INTEGER_LORA_FORWARD[] = {
    {"avx512", AVX512, avx512::integer_lora_forward},
};
const Listed listed_integer_lora_forward("intaglio_integer_lora_forward", INTEGER_LORA_FORWARD);

const Entry<IntegerLora, int> INTEGER_LORA_BACKWARD[] = {
    {"avx512", AVX512, avx512::integer_lora_backward},
};
const Listed listed_integer_lora_backward("intaglio_integer_lora_backward", INTEGER_LORA_BACKWARD);

}  // namespace
}  // namespace intaglio

extern "C" int intaglio_integer_lora_forward(const IntegerLora* call) { return intaglio::dispatch(intaglio::INTEGER_LORA_FORWARD, *call); }
extern "C" int intaglio_integer_lora_backward(const IntegerLora* call) { return intaglio::dispatch(intaglio::INTEGER_LORA_BACKWARD, *call); }
