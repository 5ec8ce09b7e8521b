// Choose how a product is computed: which kernel at which number of tokens, and over how many blocks of threads.
//
// The choice depends on the shape and the tactic alone, never on the GPU: an engine is built where there is
// none, its scratch memory must suffice everywhere, and the same input gives the same output.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels.h"
#include "layout.h"

namespace castline {

constexpr int32_t kDecodeLimit = 16;    // tokens that stream_decode takes
constexpr int32_t kTiledChannels = 128;
constexpr int32_t kMostSplits = 16;
// Blocks of threads to aim at: about one, or two, for each multiprocessor of a large GPU.
constexpr int32_t kOneWave = 144, kTwoWaves = 288;
constexpr int32_t kDecodeTactics = 6;
constexpr int32_t kTactics = kDecodeTactics + 1;  // the last one never expands weights

// What a tactic number stands for; each is a policy for every number of tokens, since one tactic serves a whole
// optimization profile.
struct Tactic {
    int32_t decode_strips = 2;  // strips that a block of threads of stream_decode makes
    int32_t waves = kTwoWaves;
    bool prefill = true;  // where there is such a product

    static bool exists(CastlineTactic number) { return number >= 0 && number <= kTactics; }

    explicit Tactic(CastlineTactic number) {
        prefill = number != kTactics;
        if (number == 0 || !prefill) return;
        decode_strips = 1 << (number - 1) % 3;
        waves = number <= 3 ? kOneWave : kTwoWaves;
    }
};

struct Plan {
    bool decode;
    int32_t strips_of_block, tokens_of_block;
    int32_t tiles, splits, blocks_of_split;

    size_t partial_bytes() const {
        if (splits == 1) return 0;
        return sizeof(float) * tiles * splits * strips_of_block * kStripRows * tokens_of_block;
    }
    size_t tickets() const { return splits == 1 ? 0 : tiles; }
};

inline Plan plan_for(const CastlineProduct& shape, const Tactic& tactic, int32_t m) {
    Plan plan{};
    plan.decode = m <= kDecodeLimit;
    plan.strips_of_block = !plan.decode ? kTiledChannels / kStripRows
                           : m <= 8     ? tactic.decode_strips
                                        : std::min(tactic.decode_strips, 2);
    plan.tokens_of_block = plan.decode ? (m <= 8 ? 8 : 16) : m <= 32 ? 32 : m <= 64 ? 64 : 128;
    const auto up = [](int64_t size, int64_t part) { return static_cast<int32_t>((size + part - 1) / part); };
    plan.tiles = up(strips_of(shape.n), plan.strips_of_block) * up(m, plan.tokens_of_block);
    const auto blocks = static_cast<int32_t>(blocks_of(shape.k));
    const int32_t least = plan.decode ? 16 : 8;  // blocks of k worth a block of threads
    const int32_t wanted = std::min({tactic.waves / plan.tiles, blocks / least, kMostSplits});
    plan.blocks_of_split = up(blocks, std::max(wanted, 1));
    plan.splits = up(blocks, plan.blocks_of_split);
    return plan;
}

// The most that stream_decode and tiled need for any m up to `max_m`. Many tiles of tokens are never split.
inline void most_scratch(const CastlineProduct& shape, const Tactic& tactic, int32_t max_m, size_t* bytes,
                         size_t* tickets) {
    *bytes = *tickets = 0;
    for (int32_t m = 1; m <= max_m; ++m) {
        const Plan plan = plan_for(shape, tactic, m);
        *bytes = std::max(*bytes, plan.partial_bytes());
        *tickets = std::max(*tickets, plan.tickets());
        if (!plan.decode && plan.tokens_of_block == 128 && plan.tiles > tactic.waves) break;
    }
}

}  // namespace castline
