// Say which tactics a product has, and what scratch memory they need.
#include "../prefill/prefill.h"
#include "errors.h"
#include "policy.h"

using namespace castline;

int32_t castline_tactics(const CastlineProduct* shape, int32_t integer, int32_t max_m, CastlineTactic* tactics,
                         int32_t room) {
    const bool expands = max_m > kPrefillTokens && prefill_bytes(*shape, integer != 0) != 0;
    const int32_t count = expands ? kTactics : kDecodeTactics;
    for (CastlineTactic number = 1; number <= std::min(count, room); ++number) tactics[number - 1] = number;
    return count;
}

int32_t castline_scratch(const CastlineProduct* shape, int32_t integer, int32_t max_m, CastlineTactic number,
                         size_t* partial_bytes, size_t* tickets) {
    if (!Tactic::exists(number)) return fail("no tactic %d: castline_tactics lists them", number);
    if (shape->n < 1 || shape->k < 1) return fail("[%d, %d]: sizes must be positive", shape->k, shape->n);
    const Tactic tactic(number);
    most_scratch(*shape, tactic, max_m, partial_bytes, tickets);
    if (tactic.prefill && max_m > kPrefillTokens) {
        *partial_bytes = std::max(*partial_bytes, prefill_bytes(*shape, integer != 0));
    }
    return 0;
}
