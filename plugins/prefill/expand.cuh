// Expand packed weights: a warp takes a block of a strip, 16 output channels by 64 input channels.
//
// A lane loads its part of the block at once. Of each half and output channel it has eight input channels
// that follow one another, and a quad of lanes has 32, so every store fills whole sectors of 32 bytes.
#pragma once

#include "../common/elements.cuh"
#include "../common/errors.h"
#include "../common/instructions.cuh"
#include "../common/layout.h"

namespace castline {

constexpr int32_t kExpandWarps = 4;
constexpr int32_t kEight = 8;  // input channels of a lane in a half

struct Expansion {
    const int8_t* packed;  // [strips, blocks, bytes]
    int32_t n, k, strips, blocks;
};

// Where a lane's codes of a half are in the matrix: those of output channel `row`, and 8 rows below.
struct Spot {
    int32_t strip, block, row, quad;

    __device__ int32_t n(int32_t upper) const { return kStripRows * strip + 8 * upper + row; }
    __device__ int32_t k(int32_t half) const { return kBlockDepth * block + kHalfDepth * half + kEight * quad; }
};

// False for warps past the last block.
__device__ __forceinline__ bool find_spot(const Expansion& of, Spot& spot) {
    const int64_t warp = static_cast<int64_t>(blockIdx.x) * kExpandWarps + threadIdx.x / 32;
    const int32_t lane = threadIdx.x % 32;
    spot = {static_cast<int32_t>(warp / of.blocks), static_cast<int32_t>(warp % of.blocks), lane / 4, lane % 4};
    return spot.strip < of.strips;
}

__device__ __forceinline__ const int8_t* bytes_of(const Expansion& of, const Spot& spot, int32_t block_bytes) {
    const int64_t block = static_cast<int64_t>(spot.strip) * of.blocks + spot.block;
    return of.packed + block * block_bytes + 16 * (4 * spot.row + spot.quad);
}

// The code of a place of a word as two's complement of 4 bits; `upper` is the high one of a byte.
__device__ __forceinline__ int32_t code_at(uint32_t word, int32_t place, int32_t upper) {
    const uint32_t code = word >> (8 * place + 4 * upper) & 15U;
    return static_cast<int32_t>(code ^ 8U) - 8;
}

// w[n, k] = codes[n, k] * scales[n, g] + offsets[n, g], or (codes[n, k] - zero_points[n, g]) * scales[n, g]
template <class E>
__global__ void __launch_bounds__(32 * kExpandWarps) expand_to_float(
    const Expansion of,
    const uint16_t* scales,   // [strips, groups, 16] of E
    const int8_t* zero_points,  // the same shape, or null
    const float* offsets,     // the same shape, or null
    int32_t group, int32_t groups,
    uint16_t* to) {           // [n, k] of E
    Spot spot;
    if (!find_spot(of, spot)) return;
    const uint4 words = load_stream(bytes_of(of, spot, kBlockBytes4));
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
        if (spot.k(half) >= of.k) return;
        const uint32_t codes[2] = {half ? words.z : words.x, half ? words.w : words.y};
#pragma unroll
        for (int32_t upper = 0; upper < 2; ++upper) {
            if (spot.n(upper) >= of.n) continue;
            const int64_t at = element_of_scale(spot.n(upper), spot.k(half) / group, groups);
            const float scale = E::to_float(scales[at]);
            const float zero_point = zero_points != nullptr ? static_cast<float>(zero_points[at]) : 0.0F;
            const float offset = offsets != nullptr ? offsets[at] : 0.0F;
            uint32_t pairs[4];
#pragma unroll
            for (int32_t i = 0; i < 4; ++i) {
                uint32_t pair = 0;
#pragma unroll
                for (int32_t j = 0; j < 2; ++j) {
                    const auto code = static_cast<float>(code_at(codes[i / 2], 2 * (i % 2) + j, upper));
                    const float weight = add(multiply(code - zero_point, scale), offset);
                    pair |= static_cast<uint32_t>(E::from_float(weight)) << 16 * j;
                }
                pairs[i] = pair;
            }
            auto* row = to + static_cast<int64_t>(spot.n(upper)) * of.k + spot.k(half);
            *reinterpret_cast<uint4*>(row) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        }
    }
}

// Four codes of 4 bits minus a zero point, each in a byte. With 128 added to what is taken from, no byte
// borrows from the next.
__device__ __forceinline__ uint32_t shifted_codes(uint32_t word, int32_t upper, uint32_t zero_point) {
    constexpr uint32_t kLow = 0x0F0F0F0FU, kTop = 0x80808080U, kEights = 0x08080808U, kInEachByte = 0x01010101U;
    const uint32_t above = ((word >> 4 * upper) & kLow) ^ (kTop | kEights);  // 128 + 8 + code
    return (above - (8U + zero_point) * kInEachByte) ^ kTop;
}

// w[n, k] = codes[n, k] - zero_points[n]
__global__ void __launch_bounds__(32 * kExpandWarps) expand_4_to_8(const Expansion of,
                                                             const int8_t* zero_points,  // [n], or null
                                                             int8_t* to) {               // [n, k]
    Spot spot;
    if (!find_spot(of, spot)) return;
    const uint4 words = load_stream(bytes_of(of, spot, kBlockBytes4));
#pragma unroll
    for (int32_t upper = 0; upper < 2; ++upper) {
        if (spot.n(upper) >= of.n) continue;
        const uint32_t zero_point = zero_points != nullptr ? zero_points[spot.n(upper)] : 0;
        auto* row = to + static_cast<int64_t>(spot.n(upper)) * of.k;
#pragma unroll
        for (int32_t half = 0; half < 2; ++half) {
            if (spot.k(half) >= of.k) continue;
            *reinterpret_cast<uint2*>(row + spot.k(half)) =
                make_uint2(shifted_codes(half ? words.z : words.x, upper, zero_point),
                           shifted_codes(half ? words.w : words.y, upper, zero_point));
        }
    }
}

// w[n, k] = codes[n, k] * scales[n, g], which fits int8
__global__ void __launch_bounds__(32 * kExpandWarps) expand_groups(const Expansion of,
                                                             const int8_t* scales,  // [strips, groups, 16]
                                                             int32_t group, int32_t groups,
                                                             int8_t* to) {          // [n, k]
    Spot spot;
    if (!find_spot(of, spot)) return;
    const uint4 words = load_stream(bytes_of(of, spot, kBlockBytes4));
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
        if (spot.k(half) >= of.k) return;
        const uint32_t codes[2] = {half ? words.z : words.x, half ? words.w : words.y};
#pragma unroll
        for (int32_t upper = 0; upper < 2; ++upper) {
            if (spot.n(upper) >= of.n) continue;
            const int32_t scale = scales[element_of_scale(spot.n(upper), spot.k(half) / group, groups)];
            uint32_t bytes[2] = {0, 0};
#pragma unroll
            for (int32_t i = 0; i < kEight; ++i) {
                const int32_t step = scale * code_at(codes[i / 4], i % 4, upper);
                bytes[i / 4] |= (static_cast<uint32_t>(step) & 0xFFU) << 8 * (i % 4);
            }
            auto* row = to + static_cast<int64_t>(spot.n(upper)) * of.k + spot.k(half);
            *reinterpret_cast<uint2*>(row) = make_uint2(bytes[0], bytes[1]);
        }
    }
}

// w[n, k] = codes[n, k]
__global__ void __launch_bounds__(32 * kExpandWarps) expand_8(const Expansion of, int8_t* to) {  // [n, k]
    Spot spot;
    if (!find_spot(of, spot)) return;
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
        if (spot.k(half) >= of.k) return;
        const uint4 words = load_stream(bytes_of(of, spot, kBlockBytes8) + kBlockBytes8 / 2 * half);
        const int64_t at = static_cast<int64_t>(spot.n(0)) * of.k + spot.k(half);
        if (spot.n(0) < of.n) *reinterpret_cast<uint2*>(to + at) = make_uint2(words.x, words.z);
        const int64_t below = at + static_cast<int64_t>(8) * of.k;
        if (spot.n(1) < of.n) *reinterpret_cast<uint2*>(to + below) = make_uint2(words.y, words.w);
    }
}

inline Expansion expansion_of(const CastlineProduct& shape, const int8_t* packed) {
    return {packed, shape.n, shape.k, static_cast<int32_t>(strips_of(shape.n)),
            static_cast<int32_t>(blocks_of(shape.k))};
}

inline dim3 grid_of(const Expansion& of) {
    const int64_t warps = static_cast<int64_t>(of.strips) * of.blocks;
    return dim3(static_cast<unsigned>((warps + kExpandWarps - 1) / kExpandWarps));
}

template <class E>
int expand_float(const CastlineWeightOnly& what, void* to, CastlineStream stream) {
    const Expansion of = expansion_of(what.shape, what.packed);
    const int32_t group = what.shape.group < what.shape.k ? what.shape.group : what.shape.k;
    const bool floats = what.offsets_kind == CASTLINE_FLOAT_OFFSETS;
    const auto* zero_points = floats ? nullptr : static_cast<const int8_t*>(what.offsets);
    const auto* offsets = floats ? static_cast<const float*>(what.offsets) : nullptr;
    return launch(expand_to_float<E>, grid_of(of), dim3(32 * kExpandWarps), 0, stream, of,
                  static_cast<const uint16_t*>(what.scales), zero_points, offsets, group,
                  (what.shape.k + group - 1) / group, static_cast<uint16_t*>(to));
}

// to [n, k] of shape.type: codes * scales + offsets in float32, rounded once. k % 8 == 0.
inline int expand_weight_only(const CastlineWeightOnly& what, void* to, CastlineStream stream) {
    if (what.shape.type == CASTLINE_FLOAT16) return expand_float<Half>(what, to, stream);
    return expand_float<BFloat16>(what, to, stream);
}

// to [n, k]: codes of 4 bits minus their zero points, or times the integers of their groups; codes of 8 bits,
// which have neither. k % 8 == 0.
inline int expand_integer(const CastlineInteger& what, int8_t* to, CastlineStream stream) {
    const Expansion of = expansion_of(what.shape, what.packed);
    const dim3 block(32 * kExpandWarps);
    if (what.group_scales != nullptr) {
        const int32_t group = what.shape.group < what.shape.k ? what.shape.group : what.shape.k;
        return launch(expand_groups, grid_of(of), block, 0, stream, of, what.group_scales, group,
                      (what.shape.k + group - 1) / group, to);
    }
    if (what.shape.weight_bits == 4) {
        return launch(expand_4_to_8, grid_of(of), block, 0, stream, of, what.weight_zero_point, to);
    }
    if (what.weight_zero_point != nullptr) return fail("weights of 8 bits have no zero points");
    return launch(expand_8, grid_of(of), block, 0, stream, of, to);
}

}  // namespace castline
