// Say which tactics a product has, and what scratch memory they need.
#include "errors.h"
#include "policy.h"

using namespace castline;

int32_t castline_tactics(const CastlineProduct*, int32_t, int32_t, CastlineTactic* tactics, int32_t room) {
    for (CastlineTactic number = 1; number <= std::min(kTactics, room); ++number) tactics[number - 1] = number;
    return kTactics;
}

int32_t castline_scratch(const CastlineProduct* shape, int32_t, int32_t max_m, CastlineTactic tactic,
                         size_t* partial_bytes, size_t* tickets) {
    if (!Tactic::exists(tactic)) return fail("no tactic %d: castline_tactics lists them", tactic);
    most_scratch(*shape, Tactic(tactic), max_m, partial_bytes, tickets);
    return 0;
}
