// Multiply many tokens: expand the packed weights once, then a library's GEMM (CUTLASS) does the rest.
//
// Above some 256 tokens a product is bound by arithmetic and reading the weights again is cheap, so
//   weight-only   packed -> W [n, k] of the type of x;  y = x W^T + bias, sums in float32
//   integer       packed -> W [n, k] int8, its zero points taken off;  codes W^T in int32, then
//                 y = ((sum - zero_point[m] * weight_sums[n]) * weight_scale[n]) * scale[m] + bias[n]
// in float32, rounded once. W lies in `partials` of the scratch; no tickets are used.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../common/kernels.h"

namespace castline {

// Tokens above which prefill is worth an expansion; at or below, the tiled kernel is used.
constexpr int32_t kPrefillTokens = 256;

// Whether a product is computed here: built with CUTLASS, m > kPrefillTokens, k % 16 == 0 and n % 8 == 0
// (its loads and stores are of 16 bytes). If not, the tiled kernel takes it.
bool prefill_takes(const CastlineProduct& shape, bool integer);

// Bytes of `partials` for W, whatever m is; 0 where no m would be taken.
size_t prefill_bytes(const CastlineProduct& shape, bool integer);

// Launch; 0, or another number with the reason in castline_last_error(). Only after prefill_takes.
int prefill_weight_only(const CastlineWeightOnly& what, const CastlineScratch& scratch, CastlineStream stream);
int prefill_integer(const CastlineInteger& what, const CastlineScratch& scratch, CastlineStream stream);

}  // namespace castline
