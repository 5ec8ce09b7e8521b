// Multiply one half of a block, 16 output channels by 32 input channels, by 8 tokens: how each scheme
// turns packed codes into operands of the matrix instructions, and sums into numbers.
//
// A lane of a warp is 4 * row + quad. Of a half it holds, for output channels `row` and `8 + row`, the input
// channels 8 * quad .. 8 * quad + 7, and the same input channels of token `row`. An instruction's sums are
//   [0], [1]: output channel row,      tokens 2 * quad, 2 * quad + 1
//   [2], [3]: output channel 8 + row,  tokens 2 * quad, 2 * quad + 1
#pragma once

#include <cmath>
#include <type_traits>

#include "elements.cuh"
#include "instructions.cuh"
#include "kernels.h"
#include "layout.h"

namespace castline {

CASTLINE_BOTH constexpr int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }

// What a kernel reads and writes. Fields of the other kind of product are null.
struct Problem {
    int32_t m, n, k;
    int32_t strips, blocks, groups;
    int32_t group_shift;      // a group of scales has 2^group_shift halves of blocks,
    int32_t blocks_of_group;  // and these blocks; 0 where a half is a group
    int32_t blocks_of_split;  // blocks of k that one block of threads adds up
    int32_t splits;
    const void* x;
    const float* token_scale;
    const int8_t* token_zero_point;
    const int8_t* packed;
    const void* scales;
    const void* offsets;
    bool float_offsets;
    bool bfloat16;  // type of y, bias and scales; kernels of weight-only products know it by themselves
    const int8_t* weight_zero_point;
    const int32_t* weight_sums;
    const void* bias;
    void* y;
    void* partials;
    uint32_t* tickets;
};

__device__ __forceinline__ float element(const void* values, int64_t at, bool bfloat16) {
    const uint16_t bits = static_cast<const uint16_t*>(values)[at];
    return bfloat16 ? BFloat16::to_float(bits) : Half::to_float(bits);
}

__device__ __forceinline__ void store_element(void* values, int64_t at, float value, bool bfloat16) {
    static_cast<uint16_t*>(values)[at] = bfloat16 ? BFloat16::from_float(value) : Half::from_float(value);
}

// Whether a group of scales ends with this block of k, or what a warp adds up does.
__device__ __forceinline__ bool ends_group(const Problem& p, int32_t block, int32_t end_block) {
    return ((block + 1) & (p.blocks_of_group - 1)) == 0 || block + 1 == end_block;
}

// The first of a lane's two scales; halves of the last block may lie behind the last group, and hold zeros.
__device__ __forceinline__ int64_t element_of_rows(const Problem& p, int32_t strip, int32_t half, int32_t row) {
    const int32_t group = smaller(half >> p.group_shift, p.groups - 1);
    return (static_cast<int64_t>(strip) * p.groups + group) * kStripRows + 2 * row;
}

// Ones of E, two in a register.
template <class E>
constexpr uint32_t kTwoOnes = E::type == CASTLINE_FLOAT16 ? 0x3c003c00u : 0x3f803f80u;

// Eight 4-bit codes of a word as four pairs of 16-bit numbers, exactly. Pairs are of places (0, 2) and
// (1, 3), since those have 16 bits between them.
template <class E>
__device__ __forceinline__ void unpack_16(uint32_t word, uint32_t (&a)[4]);

// A float16 of 1024 + u, u < 1024, has u in its low bits; code ^ 8 is code + 8.
template <>
__device__ __forceinline__ void unpack_16<Half>(uint32_t word, uint32_t (&a)[4]) {
    constexpr uint32_t low_mask = 0x000f000fu, low_magic = 0x64086408u;    // 1024 + 8 + code
    constexpr uint32_t high_mask = 0x00f000f0u, high_magic = 0x64806480u;  // 1024 + 16 * (8 + code)
    constexpr uint32_t sixteenth = 0x2c002c00u, minus_72 = 0xd480d480u;
    const uint32_t odd = word >> 8;
    a[0] = sub_pairs<Half>(and_xor(word, low_mask, low_magic), low_magic);
    a[1] = fma_pairs<Half>(and_xor(word, high_mask, high_magic), sixteenth, minus_72);
    a[2] = sub_pairs<Half>(and_xor(odd, low_mask, low_magic), low_magic);
    a[3] = fma_pairs<Half>(and_xor(odd, high_mask, high_magic), sixteenth, minus_72);
}

// A bfloat16 of 128 + u, u < 128, has u in its low bits, so only low ones are taken.
template <>
__device__ __forceinline__ void unpack_16<BFloat16>(uint32_t word, uint32_t (&a)[4]) {
    constexpr uint32_t mask = 0x000f000fu, magic = 0x43084308u;
    a[0] = sub_pairs<BFloat16>(and_xor(word, mask, magic), magic);
    a[1] = sub_pairs<BFloat16>(and_xor(word >> 4, mask, magic), magic);
    a[2] = sub_pairs<BFloat16>(and_xor(word >> 8, mask, magic), magic);
    a[3] = sub_pairs<BFloat16>(and_xor(word >> 12, mask, magic), magic);
}

// y = x @ (codes * scales + offsets): exact products of x and codes are summed in float32 over a group,
// and scaled once. What offsets multiply, the sums of x, comes from one more instruction, with ones.
// `kHalfGroups`: groups are of 32 input channels, and end with each half of a block.
template <class E, bool kHalfGroups_>
struct WeightOnly {
    using Sum = float;
    using Activations = uint4;  // of a half: 8 numbers of 16 bits
    using Weights = uint2;      // of a half: 16 codes of 4 bits
    static constexpr int32_t kWeightBits = 4;
    static constexpr int32_t kActivationBytes = 2;
    static constexpr bool kHalfGroups = kHalfGroups_;

    // Of a lane's two output channels, as loaded: nothing waits for them before a group ends.
    struct Scales {
        uint32_t scales;
        uint32_t offsets[2];  // float32; or in the first, two int8 zero-points
    };

    __device__ __forceinline__ static Scales load_scales(const Problem& p, int32_t strip, int32_t half,
                                                         int32_t row) {
        const int64_t at = element_of_rows(p, strip, half, row);
        Scales found{load_4(static_cast<const uint16_t*>(p.scales) + at), {0, 0}};
        if (p.float_offsets) {
            const uint2 offsets = load_8(static_cast<const float*>(p.offsets) + at);
            found.offsets[0] = offsets.x;
            found.offsets[1] = offsets.y;
        } else {
            found.offsets[0] = *reinterpret_cast<const uint16_t*>(static_cast<const int8_t*>(p.offsets) + at);
        }
        return found;
    }

    template <int kStrips, int kTiles>
    struct Accumulator {
        float part[kStrips][kTiles][4];  // of the group, unscaled
        float of_x[kTiles][4];           // sums of x over the group
        float total[kStrips][kTiles][4];

        __device__ __forceinline__ Accumulator() {
            clear_group();
            for (auto& strip : total)
                for (auto& tile : strip)
                    for (float& sum : tile) sum = 0.0f;
        }

        __device__ __forceinline__ void clear_group() {
#pragma unroll
            for (int t = 0; t < kTiles; ++t)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    of_x[t][i] = 0.0f;
#pragma unroll
                    for (int s = 0; s < kStrips; ++s) part[s][t][i] = 0.0f;
                }
        }

        __device__ __forceinline__ void multiply(const Problem&, const Weights (&weights)[kStrips],
                                                 const Activations (&x)[kTiles]) {
            const uint32_t ones[4] = {kTwoOnes<E>, kTwoOnes<E>, kTwoOnes<E>, kTwoOnes<E>};
#pragma unroll
            for (int word = 0; word < 2; ++word) {
                uint32_t b[kTiles][2];
#pragma unroll
                for (int t = 0; t < kTiles; ++t) {
                    const uint32_t first = word ? x[t].z : x[t].x, second = word ? x[t].w : x[t].y;
                    b[t][0] = byte_permute(first, second, 0x5410u);  // places 0, 2
                    b[t][1] = byte_permute(first, second, 0x7632u);  // places 1, 3
                    mma_16x8x16<E>(of_x[t], ones, b[t][0], b[t][1]);
                }
#pragma unroll
                for (int s = 0; s < kStrips; ++s) {
                    uint32_t a[4];
                    unpack_16<E>(word ? weights[s].y : weights[s].x, a);
#pragma unroll
                    for (int t = 0; t < kTiles; ++t) mma_16x8x16<E>(part[s][t], a, b[t][0], b[t][1]);
                }
            }
        }

        __device__ __forceinline__ void end_group(const Problem& p, const Scales (&scales)[kStrips]) {
#pragma unroll
            for (int s = 0; s < kStrips; ++s) {
                float scale[2], offset[2];
                read(p, scales[s], scale, offset);
#pragma unroll
                for (int t = 0; t < kTiles; ++t)
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        total[s][t][i] = fmaf(scale[i / 2], part[s][t][i],
                                              fmaf(offset[i / 2], of_x[t][i], total[s][t][i]));
            }
            clear_group();
        }

        __device__ __forceinline__ float sum(const Problem&, int32_t, int32_t, int s, int t, int i) const {
            return total[s][t][i];
        }
    };

    __device__ __forceinline__ static void store(const Problem& p, int32_t token, int32_t n, float sum) {
        constexpr bool bfloat16 = E::type == CASTLINE_BFLOAT16;
        store_element(p.y, static_cast<int64_t>(token) * p.n + n, sum + element(p.bias, n, bfloat16), bfloat16);
    }

    __device__ __forceinline__ static void read(const Problem& p, const Scales& from, float (&scale)[2],
                                                float (&offset)[2]) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            scale[i] = E::to_float(static_cast<uint16_t>(from.scales >> 16 * i));
            const int8_t zero_point = static_cast<int8_t>(from.offsets[0] >> 8 * i);
            offset[i] = p.float_offsets ? float_of_bits(from.offsets[i]) : -static_cast<float>(zero_point) * scale[i];
        }
    }
};

// Where an integer scales the sums over a group of input channels.
enum class Groups { kNone, kHalves, kBlocks };

// y = (codes - zero_point) @ (weights - weight_zero_point) * weight_scale * scale, its sums exact. With groups,
// weights are codes times an integer of their group, and have no zero-points.
template <int32_t kBits, Groups kGroups>
struct Integer {
    using Sum = int32_t;
    using Activations = uint2;
    using Weights = std::conditional_t<kBits == 4, uint2, uint4>;
    static constexpr int32_t kWeightBits = kBits;
    static constexpr int32_t kActivationBytes = 1;
    static constexpr bool kHalfGroups = kGroups == Groups::kHalves;

    struct Scales {
        uint32_t of_rows;  // two int8
    };

    __device__ __forceinline__ static Scales load_scales(const Problem& p, int32_t strip, int32_t half,
                                                         int32_t row) {
        if constexpr (kGroups == Groups::kNone) return {0};
        const auto* const scales = static_cast<const int8_t*>(p.offsets) + element_of_rows(p, strip, half, row);
        return {*reinterpret_cast<const uint16_t*>(scales)};
    }

    template <int kStrips, int kTiles>
    struct Accumulator {
        static constexpr bool kParts = kGroups != Groups::kNone;
        int32_t total[kStrips][kTiles][4];
        int32_t part[kParts ? kStrips : 1][kTiles][4];  // of the group
        int32_t of_codes[kTiles][4];                    // sums of the codes of activations

        __device__ __forceinline__ Accumulator() {
#pragma unroll
            for (int t = 0; t < kTiles; ++t)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    of_codes[t][i] = 0;
#pragma unroll
                    for (int s = 0; s < kStrips; ++s) {
                        total[s][t][i] = 0;
                        if constexpr (kParts) part[s][t][i] = 0;
                    }
                }
        }

        __device__ __forceinline__ void multiply(const Problem& p, const Weights (&weights)[kStrips],
                                                 const Activations (&x)[kTiles]) {
            if (!kParts && p.weight_zero_point != nullptr) {
                const uint32_t ones[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
#pragma unroll
                for (int t = 0; t < kTiles; ++t) mma_16x8x32(of_codes[t], ones, x[t].x, x[t].y);
            }
#pragma unroll
            for (int s = 0; s < kStrips; ++s) {
                uint32_t a[4];
                unpack_8(weights[s], a);
#pragma unroll
                for (int t = 0; t < kTiles; ++t) mma_16x8x32(kParts ? part[s][t] : total[s][t], a, x[t].x, x[t].y);
            }
        }

        __device__ __forceinline__ void end_group(const Problem&, const Scales (&scales)[kStrips]) {
            if constexpr (kParts) {
#pragma unroll
                for (int s = 0; s < kStrips; ++s)
#pragma unroll
                    for (int t = 0; t < kTiles; ++t)
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            const auto scale = static_cast<int8_t>(scales[s].of_rows >> 8 * (i / 2));
                            total[s][t][i] += scale * unscaled(part[s][t][i]);
                            part[s][t][i] = 0;
                        }
            }
        }

        __device__ __forceinline__ int32_t sum(const Problem& p, int32_t strip, int32_t row, int s, int t,
                                               int i) const {
            if constexpr (kParts) return total[s][t][i];
            const int32_t n = (strip + s) * kStripRows + row + 8 * (i / 2);
            const bool shifted = p.weight_zero_point != nullptr && n < p.n;
            const int32_t sum = unscaled(total[s][t][i]);
            return shifted ? sum - p.weight_zero_point[n] * of_codes[t][i] : sum;
        }
    };

    // A 4-bit code in the high half of a byte is 16 times itself.
    __device__ __forceinline__ static int32_t unscaled(int32_t sum) { return kBits == 4 ? sum >> 4 : sum; }

    __device__ __forceinline__ static void unpack_8(uint2 words, uint32_t (&a)[4]) {
        constexpr uint32_t mask = 0xf0f0f0f0u;
        a[0] = (words.x << 4) & mask;
        a[1] = words.x & mask;
        a[2] = (words.y << 4) & mask;
        a[3] = words.y & mask;
    }

    __device__ __forceinline__ static void unpack_8(uint4 words, uint32_t (&a)[4]) {
        a[0] = words.x;
        a[1] = words.y;
        a[2] = words.z;
        a[3] = words.w;
    }

    __device__ __forceinline__ static void store(const Problem& p, int32_t token, int32_t n, int32_t sum) {
        if (p.token_zero_point != nullptr) sum -= p.token_zero_point[token] * p.weight_sums[n];
        const float of_weights = multiply(static_cast<float>(sum), element(p.scales, n, p.bfloat16));
        const float wide = multiply(of_weights, p.token_scale[token]);
        const float biased = add(wide, element(p.bias, n, p.bfloat16));
        store_element(p.y, static_cast<int64_t>(token) * p.n + n, biased, p.bfloat16);
    }
};

}  // namespace castline
