// Multiply up to 16 tokens: stream each weight once, from memory to registers.
//
// A block of threads makes kStrips strips of y. Its warps take a part of k each and keep kDepth blocks of
// weights in flight; what they sum is added in shared memory, in the order of the warps. Activations are
// read from the cache straight into fragments: no two warps of a block need the same ones.
#pragma once

#include "finish.cuh"

namespace castline {

constexpr int32_t kDecodeWarps = 8;
constexpr int32_t kDecodeTokens = 16;  // at most

// What a lane loads of one block of k.
template <class Scheme, int kStrips, int kTiles>
struct DecodeBlock {
    typename Scheme::Weights weights[2][kStrips];
    typename Scheme::Activations x[2][kTiles];
    typename Scheme::Scales scales[Scheme::kHalfGroups ? 2 : 1][kStrips];
};

// Where a lane reads: a cursor that moves along k.
template <class Scheme, int kStrips, int kTiles>
struct DecodeStream {
    static constexpr int32_t kStripBytes = kStripRows * kBlockDepth * Scheme::kWeightBits / 8;

    const int8_t* weights[kStrips];
    const uint8_t* x[kTiles];
    int32_t halves[kTiles];  // of the token's input channels that are left
    int32_t strip, block, end;

    __device__ __forceinline__ DecodeStream(const Problem& p, int32_t strip, int32_t begin, int32_t end)
        : strip(strip), block(begin), end(end) {
        const int32_t lane = threadIdx.x % 32, row = lane / 4, quad = lane % 4;
#pragma unroll
        for (int s = 0; s < kStrips; ++s)  // past the last strip that one again: nothing stores the result
            weights[s] = p.packed + 16 * lane +
                         (static_cast<int64_t>(smaller(strip + s, p.strips - 1)) * p.blocks + begin) * kStripBytes;
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
            const int32_t token = 8 * t + row, k = kBlockDepth * begin + 8 * quad;
            x[t] = static_cast<const uint8_t*>(p.x) +
                   (static_cast<int64_t>(token) * p.k + k) * Scheme::kActivationBytes;
            halves[t] = token < p.m ? (p.k - k + kHalfDepth - 1) / kHalfDepth : 0;
        }
    }

    __device__ __forceinline__ void advance(int blocks) {
        block += blocks;
#pragma unroll
        for (int s = 0; s < kStrips; ++s) weights[s] += blocks * kStripBytes;
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
            x[t] += blocks * kBlockDepth * Scheme::kActivationBytes;
            halves[t] -= 2 * blocks;
        }
    }

    // Loads what no kernel writes, of the block `ahead` of the cursor.
    __device__ __forceinline__ void load_constants(const Problem& p, int ahead,
                                                   DecodeBlock<Scheme, kStrips, kTiles>& into) const {
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
            const int8_t* const bytes = weights[s] + ahead * kStripBytes;
            if constexpr (Scheme::kWeightBits == 4) {
                const uint4 words = load_stream(bytes);
                into.weights[0][s] = make_uint2(words.x, words.y);
                into.weights[1][s] = make_uint2(words.z, words.w);
            } else {
                into.weights[0][s] = load_stream(bytes);
                into.weights[1][s] = load_stream(bytes + kBlockBytes8 / 2);
            }
        }
        if (!Scheme::kHalfGroups && !ends_group(p, block + ahead, end)) return;
#pragma unroll
        for (int half = 0; half < (Scheme::kHalfGroups ? 2 : 1); ++half)
#pragma unroll
            for (int s = 0; s < kStrips; ++s)
                into.scales[half][s] = Scheme::load_scales(p, smaller(strip + s, p.strips - 1),
                                                           2 * (block + ahead) + half, threadIdx.x % 32 / 4);
    }

    __device__ __forceinline__ void load_tokens(int ahead, DecodeBlock<Scheme, kStrips, kTiles>& into) const {
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int t = 0; t < kTiles; ++t) {
                const uint8_t* const bytes =
                    x[t] + (ahead * kBlockDepth + half * kHalfDepth) * Scheme::kActivationBytes;
                const bool exists = 2 * ahead + half < halves[t];
                if constexpr (Scheme::kActivationBytes == 2) {
                    into.x[half][t] = exists ? load_16(bytes) : make_uint4(0, 0, 0, 0);
                } else {
                    into.x[half][t] = exists ? load_8(bytes) : make_uint2(0, 0);
                }
            }
    }
};

// Blocks of threads that share a multiprocessor: one where a lane needs more than half of its registers.
template <class Scheme>
constexpr int residents(int strips, int tiles) {
    return strips * tiles <= (Scheme::kActivationBytes == 1 ? 4 : 1) ? 2 : 1;
}

template <class Scheme, int kStrips, int kTiles, int kDepth>
__global__ void __launch_bounds__(32 * kDecodeWarps, residents<Scheme>(kStrips, kTiles))
     stream_decode(const Problem p) {
    using Sum = typename Scheme::Sum;
    constexpr int32_t kChannels = kStripRows * kStrips, kTokens = 8 * kTiles;
    const int32_t warp = shuffle(static_cast<int32_t>(threadIdx.x) / 32, 0), lane = threadIdx.x % 32;
    const int32_t strip = blockIdx.x * kStrips;
    const int32_t first = blockIdx.y * p.blocks_of_split;
    const int32_t past = smaller(first + p.blocks_of_split, p.blocks);
    const int32_t of_warp = (past - first + kDecodeWarps - 1) / kDecodeWarps;
    const int32_t begin = smaller(first + warp * of_warp, past), end = smaller(begin + of_warp, past);

    typename Scheme::template Accumulator<kStrips, kTiles> sums;
    DecodeStream<Scheme, kStrips, kTiles> stream(p, strip, begin, end);
    DecodeBlock<Scheme, kStrips, kTiles> loaded[kDepth];
#pragma unroll
    for (int i = 0; i < kDepth; ++i)
        if (begin + i < end) stream.load_constants(p, i, loaded[i]);
    wait_for_previous_kernel();
#pragma unroll
    for (int i = 0; i < kDepth; ++i)
        if (begin + i < end) stream.load_tokens(i, loaded[i]);
    while (stream.block < end) {
#pragma unroll
        for (int i = 0; i < kDepth; ++i) {
            if (stream.block + i >= end) break;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                sums.multiply(p, loaded[i].weights[half], loaded[i].x[half]);
                if constexpr (Scheme::kHalfGroups) sums.end_group(p, loaded[i].scales[half]);
            }
            if constexpr (!Scheme::kHalfGroups) {
                if (ends_group(p, stream.block + i, end)) sums.end_group(p, loaded[i].scales[0]);
            }
            if (stream.block + i + kDepth >= end) continue;
            stream.load_constants(p, i + kDepth, loaded[i]);
            stream.load_tokens(i + kDepth, loaded[i]);
        }
        stream.advance(kDepth);
    }
    allow_next_kernel();

    // [warps, tokens, channels]; the first of them takes the sums over all.
    CASTLINE_SHARED(shared);
    Sum* const of_warps = reinterpret_cast<Sum*>(shared);
#pragma unroll
    for (int s = 0; s < kStrips; ++s)
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int32_t token = 8 * t + 2 * (lane % 4) + i % 2;
                const int32_t channel = kStripRows * s + lane / 4 + 8 * (i / 2);
                of_warps[(warp * kTokens + token) * kChannels + channel] = sums.sum(p, strip, lane / 4, s, t, i);
            }
    sync_threads();
    for (int32_t i = threadIdx.x; i < kTokens * kChannels; i += blockDim.x) {
        Sum sum = of_warps[i];
        for (int32_t other = 1; other < kDecodeWarps; ++other) sum += of_warps[other * kTokens * kChannels + i];
        of_warps[i] = sum;  // read again by this thread alone
    }
    const Tile tile{0, kStripRows * strip, kTokens, kChannels, static_cast<int32_t>(blockIdx.x),
                    static_cast<int32_t>(blockIdx.y)};
    finish<Scheme>(p, tile, of_warps);
}

template <class Scheme, int kStrips, int kTiles>
constexpr size_t decode_shared_bytes() {
    return sizeof(typename Scheme::Sum) * kDecodeWarps * kStripRows * kStrips * 8 * kTiles;
}

}  // namespace castline
