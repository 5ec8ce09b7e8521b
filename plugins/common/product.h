// Check a product and launch its kernel: what the C functions of all schemes share.
#pragma once

#include "policy.h"
#include "stream_decode.cuh"
#include "tiled.cuh"

namespace castline {

// Returns 0, or keeps the reason why no kernel takes such a product.
inline int check_product(const CastlineProduct& shape, CastlineTactic tactic, const char* op) {
    if (!Tactic::exists(tactic)) return fail("%s: no tactic %d: castline_tactics lists them", op, tactic);
    if (shape.m < 1 || shape.n < 1 || shape.k < 1) {
        return fail("%s: [%d, %d] x [%d, %d]: sizes must be positive", op, shape.m, shape.k, shape.k, shape.n);
    }
    if (shape.k % 16 != 0) {
        return fail("%s: %d input channels: their number must be a multiple of 16", op, shape.k);
    }
    if (shape.type != CASTLINE_FLOAT16 && shape.type != CASTLINE_BFLOAT16) {
        return fail("%s: type %d: only float16 (0) and bfloat16 (1) have kernels", op, shape.type);
    }
    const int32_t depth = shape.group;
    const bool power = depth >= kHalfDepth && (depth & (depth - 1)) == 0;
    if (depth < shape.k && !power) {
        return fail("%s: groups of %d: kernels take 32, 64, 128 and so on, or all %d input channels", op, depth,
                    shape.k);
    }
    return 0;
}

// Rows of x are as aligned as x is, since their channels are a multiple of 16.
inline int check_aligned(const void* x, const void* packed, const char* op) {
    constexpr size_t of_loads = 16;
    if (is_aligned(x, of_loads) && is_aligned(packed, of_loads)) return 0;
    return fail("%s: activations at %p, packed weights at %p: kernels load 16 bytes at once, from 16-aligned addresses",
                op, x, packed);
}

inline int check_scratch(const Plan& plan, const CastlineScratch* scratch, const char* op) {
    if (plan.splits == 1) return 0;
    const size_t bytes = scratch == nullptr ? 0 : scratch->partial_bytes;
    const size_t tickets = scratch == nullptr ? 0 : scratch->ticket_count;
    if (bytes >= plan.partial_bytes() && tickets >= plan.tickets()) return 0;
    return fail("%s: scratch memory has %zu bytes and %zu tickets; %zu and %zu are needed (castline_scratch tells)",
                op, bytes, tickets, plan.partial_bytes(), plan.tickets());
}

// Fields that follow from shape and plan.
inline Problem problem_for(const CastlineProduct& shape, const Plan& plan, const CastlineScratch* scratch) {
    Problem p{};
    p.m = shape.m;
    p.n = shape.n;
    p.k = shape.k;
    p.strips = static_cast<int32_t>(strips_of(shape.n));
    p.blocks = static_cast<int32_t>(blocks_of(shape.k));
    p.group_shift = 30;  // one group, wherever it ends
    p.groups = 1;
    if (shape.group < shape.k) {
        p.group_shift = 0;
        while (kHalfDepth << p.group_shift < shape.group) ++p.group_shift;
        p.groups = (shape.k + shape.group - 1) / shape.group;
    }
    p.blocks_of_group = 1 << p.group_shift >> 1;
    p.blocks_of_split = plan.blocks_of_split;
    p.splits = plan.splits;
    p.bfloat16 = shape.type == CASTLINE_BFLOAT16;
    p.partials = plan.splits == 1 ? nullptr : scratch->partials;
    p.tickets = plan.splits == 1 ? nullptr : scratch->tickets;
    return p;
}

template <class Scheme, int kStrips, int kTiles>
int launch_decode(const Problem& p, CastlineStream stream) {
    // Blocks of k in flight in each warp, as registers allow without spills.
    constexpr int kDepth = kStrips == 4 ? 2 : kStrips * kTiles == 1 ? 4 : 3;
    const dim3 grid((p.strips + kStrips - 1) / kStrips, p.splits);
    return launch_overlapping(stream_decode<Scheme, kStrips, kTiles, kDepth>, grid, dim3(32 * kDecodeWarps),
                              decode_shared_bytes<Scheme, kStrips, kTiles>(), stream, p);
}

template <class T>
int launch_tiled(const Problem& p, CastlineStream stream) {
    const dim3 grid((p.strips + T::kTileStrips - 1) / T::kTileStrips, (p.m + T::kTokens - 1) / T::kTokens, p.splits);
    return launch(tiled<T>, grid, dim3(T::kThreads), T::kSharedBytes, stream, p);
}

template <class Scheme>
int launch_product(const Problem& p, const Plan& plan, CastlineStream stream) {
    if (plan.decode) {
        const bool one = plan.tokens_of_block == 8;
        switch (plan.strips_of_block) {
            case 1: return one ? launch_decode<Scheme, 1, 1>(p, stream) : launch_decode<Scheme, 1, 2>(p, stream);
            case 2: return one ? launch_decode<Scheme, 2, 1>(p, stream) : launch_decode<Scheme, 2, 2>(p, stream);
            default: return launch_decode<Scheme, 4, 1>(p, stream);  // for 16 tokens a lane has too few registers
        }
    }
    if (plan.tokens_of_block == 32) return launch_tiled<Tiling<Scheme, 1, 4, 8, 1, 4>>(p, stream);
    if (plan.tokens_of_block == 64) return launch_tiled<Tiling<Scheme, 2, 4, 4, 2, 4>>(p, stream);
    return launch_tiled<Tiling<Scheme, 2, 8, 4, 2, 4>>(p, stream);
}

}  // namespace castline
