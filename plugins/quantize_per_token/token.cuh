// Quantize one token that the threads of a block hold: what kernels that quantize per token have in common.
//
// Thread t holds the channels 8 (t + i T) + {0 .. 7} for i below kVectors, T threads; what lies behind the
// last channel is 0, which changes no range. Formulas: plugins/run_time_grid.py, bit for bit.
#pragma once

#include "instructions.cuh"

namespace castline {

constexpr int32_t kVector = 8;  // 16-bit values that one load brings
constexpr int32_t kMostTokenThreads = 512;
constexpr int32_t kMostVectors = 8;
constexpr int32_t kMostChannels = kVector * kMostTokenThreads * kMostVectors;
static_assert(kMostChannels == CASTLINE_MOST_TOKEN_CHANNELS, "kernels.h promises what threads hold");
constexpr int32_t kRangeBytes = 2 * 4 * kMostTokenThreads / 32;  // of shared memory, two integers a warp
constexpr float kSmallestScale = 0x1p-126F;                      // float32's smallest normal number

struct Eight {
    uint32_t pair[kVector / 2];

    CASTLINE_BOTH uint16_t operator[](int i) const {
        return static_cast<uint16_t>(pair[i / 2] >> (16 * (i % 2)));
    }

    // Puts a value where there is 0.
    CASTLINE_BOTH void put(int i, uint16_t value) {
        pair[i / 2] |= static_cast<uint32_t>(value) << (16 * (i % 2));
    }
};

// How many vectors of a token of k channels a thread holds, a power of two, and how many threads there are.
struct TokenShape {
    int32_t threads, vectors;
};

inline TokenShape token_shape(int32_t k) {
    const int32_t vectors = (k + kVector - 1) / kVector;
    const int32_t warps = (vectors + 31) / 32;
    const int32_t threads = warps * 32 < kMostTokenThreads ? warps * 32 : kMostTokenThreads;
    int32_t held = 1;
    while (held * threads < vectors) held *= 2;
    return {threads, held};
}

__device__ __forceinline__ int32_t channel_of(int i) {
    return kVector * static_cast<int32_t>(threadIdx.x + static_cast<unsigned>(i) * blockDim.x);
}

// Eight values of a row of k from `channel` on. `whole`: k is a multiple of 8, and the row 16-aligned.
__device__ __forceinline__ Eight load_eight(const uint16_t* row, int32_t channel, int32_t k, bool whole) {
    Eight values = {};
    if (whole && channel < k) {
        const uint4 loaded = load_16(row + channel);
        values = Eight{{loaded.x, loaded.y, loaded.z, loaded.w}};
    } else {
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
            if (channel + i < k) values.put(i, row[channel + i]);
        }
    }
    return values;
}

__device__ __forceinline__ void store_eight(uint16_t* row, int32_t channel, int32_t k, bool whole,
                                            const Eight& values) {
    if (whole && channel < k) {
        *reinterpret_cast<uint4*>(row + channel) =
            make_uint4(values.pair[0], values.pair[1], values.pair[2], values.pair[3]);
        return;
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
        if (channel + i < k) row[channel + i] = values[i];
    }
}

// Eight codes; `whole`: k is a multiple of 8, and the row 8-aligned.
__device__ __forceinline__ void store_codes(int8_t* row, int32_t channel, int32_t k, bool whole,
                                            const int32_t (&codes)[kVector]) {
    if (whole && channel < k) {
        uint32_t word[2] = {0, 0};
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
            word[i / 4] |= static_cast<uint32_t>(codes[i] & 0xFF) << (8 * (i % 4));
        }
        *reinterpret_cast<uint2*>(row + channel) = make_uint2(word[0], word[1]);
        return;
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
        if (channel + i < k) row[channel + i] = static_cast<int8_t>(codes[i]);
    }
}

// The larger a value, the larger the integer; NaNs are beyond the infinities, so that a range has them.
__device__ __forceinline__ int32_t rank_of(uint16_t value) {
    const int32_t bits = static_cast<int16_t>(value);
    return bits < 0 ? bits ^ 0x7FFF : bits;
}

__device__ __forceinline__ uint16_t value_of_rank(int32_t rank) {
    return static_cast<uint16_t>(rank < 0 ? rank ^ 0x7FFF : rank);
}

// The largest over the block of each of two values. `shared` has kRangeBytes.
__device__ __forceinline__ void block_max(int32_t (&value)[2], unsigned char* shared) {
    int32_t* of_warps = reinterpret_cast<int32_t*>(shared);
    const unsigned warps = blockDim.x / 32;
    const unsigned lane = threadIdx.x % 32;
    value[0] = warp_max(value[0]);
    value[1] = warp_max(value[1]);
    if (lane == 0) {
        of_warps[2 * (threadIdx.x / 32)] = value[0];
        of_warps[2 * (threadIdx.x / 32) + 1] = value[1];
    }
    sync_threads();
    const unsigned of = lane < warps ? lane : 0;
    value[0] = warp_max(of_warps[2 * of]);
    value[1] = warp_max(of_warps[2 * of + 1]);
}

__device__ __forceinline__ float at_least(float value, float least) { return value < least ? least : value; }

// Rounds half to even. Where `value` is NaN the code is `high`, and the scale is NaN.
__device__ __forceinline__ float kept(float value, float low, float high) {
    return fmaxf(fminf(value, high), low);
}

// What the codes of a token are made by.
struct Grid {
    float scale, zero_point, low, high;
};

// above, below: the largest and the smallest value, where 0 counts as one.
__device__ __forceinline__ Grid grid_of(float above, float below, int32_t bits, bool symmetric) {
    const float high = static_cast<float>((1 << (bits - 1)) - 1);
    if (symmetric) {
        const float peak = above > -below ? above : -below;
        const float known = above != above ? above : peak;  // a NaN on either side
        return {at_least(divide(known, high), kSmallestScale), 0.F, -high, high};
    }
    const float low = -high - 1.F;
    const float scale = at_least(divide(add(above, -below), add(high, -low)), kSmallestScale);
    const float zero_point = kept(rintf(add(low, -divide(below, scale))), low, high);
    return {scale, zero_point, low, high};
}

// Writes codes, scale and zero point of token blockIdx.x, of which this thread holds `values`.
template <class E, int kVectors>
__device__ __forceinline__ void quantize_values(const CastlineQuantize& what, const Eight (&values)[kVectors],
                                                bool whole_codes, unsigned char* shared) {
    int32_t ends[2] = {0, 0};  // the largest rank, and minus the smallest: 0 is always among the values
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
#pragma unroll
        for (int j = 0; j < kVector; ++j) {
            const int32_t rank = rank_of(values[i][j]);
            ends[0] = rank > ends[0] ? rank : ends[0];
            ends[1] = -rank > ends[1] ? -rank : ends[1];
        }
    }
    block_max(ends, shared);
    const float above = E::to_float(value_of_rank(ends[0]));
    const float below = E::to_float(value_of_rank(-ends[1]));
    const Grid grid = grid_of(above, below, what.bits, what.zero_point == nullptr);
    int8_t* row = what.codes + static_cast<size_t>(blockIdx.x) * what.k;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
        int32_t codes[kVector];
#pragma unroll
        for (int j = 0; j < kVector; ++j) {
            const float steps = rintf(divide(E::to_float(values[i][j]), grid.scale));
            codes[j] = static_cast<int32_t>(kept(add(steps, grid.zero_point), grid.low, grid.high));
        }
        store_codes(row, channel_of(i), what.k, whole_codes, codes);
    }
    if (threadIdx.x != 0) return;
    what.scale[blockIdx.x] = grid.scale;
    if (what.zero_point != nullptr) what.zero_point[blockIdx.x] = static_cast<int8_t>(grid.zero_point);
}

// Why a call cannot be computed, or 0 after nothing was found.
inline int refuse_token(const char* op, int32_t m, int32_t k, int32_t type) {
    if (m < 0 || k < 1 || k > kMostChannels) {
        return fail("%s: m = %d, k = %d; m must be 0 or more, and k 1 to %d", op, m, k, kMostChannels);
    }
    if (type != CASTLINE_FLOAT16 && type != CASTLINE_BFLOAT16) {
        return fail("%s: type %d is neither 0 (float16) nor 1 (bfloat16)", op, type);
    }
    return 0;
}

inline int refuse_bits(const char* op, int32_t bits) {
    return bits >= 2 && bits <= 8 ? 0 : fail("%s: codes of %d bits; they have 2 to 8", op, bits);
}

}  // namespace castline
