// Multiply more than 16 tokens: tiles of y, with weights and activations passing through shared memory.
//
// A block of threads makes 16 * kStrips * kAcross channels of 8 * kTiles * kDown tokens; a warp kStrips strips of
// kTiles tiles of 8 tokens. Copies of kStages blocks of k are under way while one is multiplied.
#pragma once

#include "finish.cuh"

namespace castline {

template <class Scheme_, int kStrips_, int kTiles_, int kAcross_, int kDown_, int kStages_>
struct Tiling {
    using Scheme = Scheme_;
    static constexpr int32_t kStrips = kStrips_, kTiles = kTiles_, kAcross = kAcross_, kDown = kDown_;
    static constexpr int32_t kStages = kStages_;
    static constexpr int32_t kThreads = 32 * kAcross * kDown;
    static constexpr int32_t kTileStrips = kStrips * kAcross;
    static constexpr int32_t kChannels = kStripRows * kTileStrips;
    static constexpr int32_t kTokens = 8 * kTiles * kDown;
    static constexpr int32_t kStripBytes = kStripRows * kBlockDepth * Scheme::kWeightBits / 8;
    static constexpr int32_t kTokenBytes = kBlockDepth * Scheme::kActivationBytes;
    static constexpr int32_t kWeightBytes = kTileStrips * kStripBytes;
    static constexpr int32_t kStageBytes = kWeightBytes + kTokens * kTokenBytes;
    static constexpr size_t kSumBytes = sizeof(typename Scheme::Sum) * kChannels * kTokens;
    static constexpr size_t kSharedBytes =
        kSumBytes > size_t{kStages} * kStageBytes ? kSumBytes : size_t{kStages} * kStageBytes;
};

// Where 16 bytes of a token's block of k lie among those of all tokens: pieces change places from token to
// token, so that the lanes of a load, four pieces or halves of them of several tokens, meet all banks once.
template <int32_t kTokenBytes>
__device__ __forceinline__ int32_t piece_of(int32_t token, int32_t piece) {
    const int32_t moved = kTokenBytes == 128 ? piece ^ (token & 1) << 2 : piece ^ (token & 2);
    return token * kTokenBytes + 16 * moved;
}

// What a thread copies of each block of k: a cursor that moves along k.
template <class T>
struct Copies {
    using Scheme = typename T::Scheme;
    static constexpr int32_t kStripPieces = T::kStripBytes / 16, kTokenPieces = T::kTokenBytes / 16;
    static constexpr int32_t kOfWeights = (T::kTileStrips * kStripPieces + T::kThreads - 1) / T::kThreads;
    static constexpr int32_t kOfTokens = (T::kTokens * kTokenPieces + T::kThreads - 1) / T::kThreads;

    const int8_t* weights[kOfWeights];
    const uint8_t* tokens[kOfTokens];
    bool strip_exists[kOfWeights];
    int32_t channels[kOfTokens];  // of the token that are left

    __device__ __forceinline__ Copies(const Problem& p, int32_t strip, int32_t token, int32_t block) {
#pragma unroll
        for (int i = 0; i < kOfWeights; ++i) {
            const int32_t piece = threadIdx.x + i * T::kThreads, from = strip + piece / kStripPieces;
            strip_exists[i] = from < p.strips;
            weights[i] = p.packed + 16 * (piece % kStripPieces) +
                         (static_cast<int64_t>(smaller(from, p.strips - 1)) * p.blocks + block) * T::kStripBytes;
        }
#pragma unroll
        for (int i = 0; i < kOfTokens; ++i) {
            const int32_t piece = threadIdx.x + i * T::kThreads, from = token + piece / kTokenPieces;
            const int32_t k = kBlockDepth * block + 16 / Scheme::kActivationBytes * (piece % kTokenPieces);
            channels[i] = from < p.m ? p.k - k : 0;
            tokens[i] = static_cast<const uint8_t*>(p.x) +
                        (static_cast<int64_t>(smaller(from, p.m - 1)) * p.k + k) * Scheme::kActivationBytes;
        }
    }

    // Copies a block of k into a stage and moves on to the next.
    __device__ __forceinline__ void copy(uint8_t* stage) {
#pragma unroll
        for (int i = 0; i < kOfWeights; ++i) {
            const int32_t piece = threadIdx.x + i * T::kThreads;
            if (piece < T::kTileStrips * kStripPieces) cp_async_16(stage + 16 * piece, weights[i], strip_exists[i]);
            weights[i] += T::kStripBytes;
        }
#pragma unroll
        for (int i = 0; i < kOfTokens; ++i) {
            const int32_t piece = threadIdx.x + i * T::kThreads;
            const int32_t at = piece_of<T::kTokenBytes>(piece / kTokenPieces, piece % kTokenPieces);
            if (piece < T::kTokens * kTokenPieces) {
                cp_async_16(stage + T::kWeightBytes + at, tokens[i], channels[i] > 0);
            }
            tokens[i] += T::kTokenBytes;
            channels[i] -= kBlockDepth;
        }
    }
};

template <class T>
__device__ __forceinline__ void read_weights(const uint8_t* strips, int32_t lane,
                                             typename T::Scheme::Weights (&weights)[2][T::kStrips]) {
#pragma unroll
    for (int s = 0; s < T::kStrips; ++s) {
        const uint8_t* bytes = strips + s * T::kStripBytes + 16 * lane;
        if constexpr (T::Scheme::kWeightBits == 4) {
            const uint4 words = *reinterpret_cast<const uint4*>(bytes);
            weights[0][s] = make_uint2(words.x, words.y);
            weights[1][s] = make_uint2(words.z, words.w);
        } else {
            weights[0][s] = *reinterpret_cast<const uint4*>(bytes);
            weights[1][s] = *reinterpret_cast<const uint4*>(bytes + kBlockBytes8 / 2);
        }
    }
}

template <class T>
__device__ __forceinline__ void read_tokens(const uint8_t* tokens, int32_t first, int half, int32_t lane,
                                            typename T::Scheme::Activations (&x)[T::kTiles]) {
    const int32_t row = lane / 4, quad = lane % 4;
#pragma unroll
    for (int t = 0; t < T::kTiles; ++t) {
        const int32_t token = first + 8 * t + row;
        if constexpr (T::Scheme::kActivationBytes == 2) {
            x[t] = *reinterpret_cast<const uint4*>(tokens + piece_of<T::kTokenBytes>(token, 4 * half + quad));
        } else {
            const int32_t at = piece_of<T::kTokenBytes>(token, 2 * half + quad / 2) + 8 * (quad % 2);
            x[t] = *reinterpret_cast<const uint2*>(tokens + at);
        }
    }
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1) tiled(const Problem p) {
    using Scheme = typename T::Scheme;
    using Sum = typename Scheme::Sum;
    const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int32_t across = warp % T::kAcross, down = warp / T::kAcross;
    const int32_t tile_strip = blockIdx.x * T::kTileStrips, tile_token = blockIdx.y * T::kTokens;
    const int32_t strip = tile_strip + across * T::kStrips;
    const int32_t begin = blockIdx.z * p.blocks_of_split;
    const int32_t end = smaller(begin + p.blocks_of_split, p.blocks);
    CASTLINE_SHARED(shared);

    typename Scheme::template Accumulator<T::kStrips, T::kTiles> sums;
    Copies<T> copies(p, tile_strip, tile_token, begin);
#pragma unroll
    for (int i = 0; i < T::kStages - 1; ++i) {
        if (begin + i < end) copies.copy(shared + i * T::kStageBytes);
        cp_async_commit();
    }
    int32_t stage = 0;
    for (int32_t block = begin; block < end; ++block) {
        const bool group_ends = ends_group(p, block, end);
        typename Scheme::Scales scales[Scheme::kHalfGroups ? 2 : 1][T::kStrips];
        if (Scheme::kHalfGroups || group_ends) {
#pragma unroll
            for (int half = 0; half < (Scheme::kHalfGroups ? 2 : 1); ++half)
#pragma unroll
                for (int s = 0; s < T::kStrips; ++s)
                    scales[half][s] =
                        Scheme::load_scales(p, smaller(strip + s, p.strips - 1), 2 * block + half, lane / 4);
        }
        cp_async_wait<T::kStages - 2>();
        sync_threads();  // this stage has arrived, and nobody reads the one that is filled next
        const int32_t into = stage == 0 ? T::kStages - 1 : stage - 1;
        if (block + T::kStages - 1 < end) copies.copy(shared + into * T::kStageBytes);
        cp_async_commit();
        const uint8_t* const weights_of = shared + stage * T::kStageBytes + across * T::kStrips * T::kStripBytes;
        const uint8_t* const tokens_of = shared + stage * T::kStageBytes + T::kWeightBytes;
        typename Scheme::Weights weights[2][T::kStrips];
        read_weights<T>(weights_of, lane, weights);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            typename Scheme::Activations x[T::kTiles];
            read_tokens<T>(tokens_of, down * 8 * T::kTiles, half, lane, x);
            sums.multiply(p, weights[half], x);
            if constexpr (Scheme::kHalfGroups) sums.end_group(p, scales[half]);
        }
        if constexpr (!Scheme::kHalfGroups) {
            if (group_ends) sums.end_group(p, scales[0]);
        }
        stage = stage + 1 == T::kStages ? 0 : stage + 1;
    }

    cp_async_wait<0>();
    sync_threads();  // the stages become room for the sums, [tokens, channels]
    Sum* const of_tile = reinterpret_cast<Sum*>(shared);
#pragma unroll
    for (int s = 0; s < T::kStrips; ++s)
#pragma unroll
        for (int t = 0; t < T::kTiles; ++t)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int32_t token = 8 * (down * T::kTiles + t) + 2 * (lane % 4) + i % 2;
                const int32_t channel = kStripRows * (across * T::kStrips + s) + lane / 4 + 8 * (i / 2);
                of_tile[token * T::kChannels + channel] = sums.sum(p, strip, lane / 4, s, t, i);
            }
    sync_threads();
    const Tile tile{tile_token, kStripRows * tile_strip, T::kTokens, T::kChannels,
                    static_cast<int32_t>(blockIdx.y * gridDim.x + blockIdx.x), static_cast<int32_t>(blockIdx.z)};
    finish<Scheme>(p, tile, of_tile);
}

}  // namespace castline
