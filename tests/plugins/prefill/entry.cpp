// Give test_prefill.py C functions for what is C++.
#include "../../../plugins/prefill/prefill.h"

#if defined(__GNUC__)
#define EXPORTED extern "C" __attribute__((visibility("default")))
#endif

EXPORTED bool takes(const CastlineProduct* shape, int32_t integer) {
    return castline::prefill_takes(*shape, integer != 0);
}

EXPORTED size_t bytes(const CastlineProduct* shape, int32_t integer) {
    return castline::prefill_bytes(*shape, integer != 0);
}

EXPORTED int weight_only(const CastlineWeightOnly* what, const CastlineScratch* scratch) {
    return castline::prefill_weight_only(*what, *scratch, nullptr);
}

EXPORTED int integer(const CastlineInteger* what, const CastlineScratch* scratch) {
    return castline::prefill_integer(*what, *scratch, nullptr);
}
