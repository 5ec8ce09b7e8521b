// Multiply codes by codes, of 8 or 4 bits, and scale the sums: castline_integer.
#include "../prefill/prefill.h"
#include "product.h"

using namespace castline;

int32_t castline_integer(const CastlineInteger* what, CastlineTactic tactic, const CastlineScratch* scratch,
                         CastlineStream stream) {
    constexpr int32_t most_k = CASTLINE_MOST_INTEGER_CHANNELS;
    static_assert(int64_t{16 * 8 * 128} * most_k < int64_t{1} << 31, "sums of codes, one 16 times itself");
    const CastlineProduct& shape = what->shape;
    const char* const op = shape.weight_bits == 4 ? "LinearW4A8" : "LinearW8A8";
    if (const int status = check_product(shape, tactic, op)) return status;
    if (shape.weight_bits != 4 && shape.weight_bits != 8) {
        return fail("%s: weights of %d bits: kernels take 4 or 8", op, shape.weight_bits);
    }
    if (shape.k > most_k) return fail("%s: %d input channels: sums fit 32 bits up to %d", op, shape.k, most_k);
    if (what->zero_point != nullptr && what->weight_sums == nullptr) {
        return fail("%s: zero-points of tokens need the sums of weights", op);
    }
    if (shape.weight_bits == 8 && what->weight_zero_point != nullptr) {
        return fail("%s: zero-points of weights go with 4-bit weights", op);
    }
    if (what->group_scales != nullptr && (shape.weight_bits != 4 || what->weight_zero_point != nullptr)) {
        return fail("%s: scales of groups go with 4-bit weights without zero-points", op);
    }
    if (what->group_scales == nullptr && shape.group < shape.k) {
        return fail("%s: groups of %d input channels, but no scales of groups", op, shape.group);
    }
    if (const int status = check_aligned(what->codes, what->packed, op)) return status;
    if (Tactic(tactic).prefill && scratch != nullptr && prefill_takes(shape, true)) {
        return prefill_integer(*what, *scratch, stream);
    }
    const Plan plan = plan_for(shape, Tactic(tactic), shape.m);
    if (const int status = check_scratch(plan, scratch, op)) return status;
    Problem p = problem_for(shape, plan, scratch);
    p.x = what->codes;
    p.token_scale = what->scale;
    p.token_zero_point = what->zero_point;
    p.packed = what->packed;
    p.scales = what->weight_scale;
    p.weight_zero_point = what->weight_zero_point;
    p.weight_sums = what->weight_sums;
    p.bias = what->bias;
    p.y = what->y;
    p.offsets = what->group_scales;
    if (what->group_scales != nullptr) {
        return p.blocks_of_group == 0 ? launch_product<Integer<4, Groups::kHalves>>(p, plan, stream)
                                      : launch_product<Integer<4, Groups::kBlocks>>(p, plan, stream);
    }
    return shape.weight_bits == 4 ? launch_product<Integer<4, Groups::kNone>>(p, plan, stream)
                                  : launch_product<Integer<8, Groups::kNone>>(p, plan, stream);
}
