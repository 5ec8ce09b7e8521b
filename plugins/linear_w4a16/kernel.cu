// Multiply float activations by 4-bit weights in groups: castline_weight_only.
#include "../prefill/prefill.h"
#include "product.h"

using namespace castline;

template <class E>
static int launch_groups(const Problem& p, const Plan& plan, CastlineStream stream) {
    return p.blocks_of_group == 0 ? launch_product<WeightOnly<E, true>>(p, plan, stream)
                                  : launch_product<WeightOnly<E, false>>(p, plan, stream);
}

int32_t castline_weight_only(const CastlineWeightOnly* what, CastlineTactic tactic, const CastlineScratch* scratch,
                             CastlineStream stream) {
    constexpr const char* op = "LinearW4A16";
    const CastlineProduct& shape = what->shape;
    if (const int status = check_product(shape, tactic, op)) return status;
    if (shape.weight_bits != 4) return fail("%s: weights of %d bits: it has kernels for 4 alone", op, shape.weight_bits);
    if (const int status = check_aligned(what->x, what->packed, op)) return status;
    if (Tactic(tactic).prefill && scratch != nullptr && prefill_takes(shape, false)) {
        return prefill_weight_only(*what, *scratch, stream);
    }
    const Plan plan = plan_for(shape, Tactic(tactic), shape.m);
    if (const int status = check_scratch(plan, scratch, op)) return status;
    Problem p = problem_for(shape, plan, scratch);
    p.x = what->x;
    p.packed = what->packed;
    p.scales = what->scales;
    p.offsets = what->offsets;
    p.float_offsets = what->offsets_kind == CASTLINE_FLOAT_OFFSETS;
    p.bias = what->bias;
    p.y = what->y;
    return p.bfloat16 ? launch_groups<BFloat16>(p, plan, stream) : launch_groups<Half>(p, plan, stream);
}
