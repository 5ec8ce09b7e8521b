// Say where each code of a packed weight lies: the one place on the C++ side that knows.
//
// plugins/packing.py draws the layout and is its twin in numpy; the tests compare the two.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define CASTLINE_BOTH __host__ __device__
#else
#define CASTLINE_BOTH
#endif

namespace castline {

constexpr int32_t kLayoutVersion = 1;
constexpr int32_t kStripRows = 16;    // output channels of a strip: the rows of one matrix instruction
constexpr int32_t kBlockDepth = 64;   // input channels of a block: what a lane loads of a strip at once
constexpr int32_t kHalfDepth = 32;    // a group of scales has a multiple of these input channels
constexpr int32_t kBlockBytes4 = kStripRows * kBlockDepth / 2;
constexpr int32_t kBlockBytes8 = kStripRows * kBlockDepth;

CASTLINE_BOTH constexpr int64_t strips_of(int64_t n) { return (n + kStripRows - 1) / kStripRows; }
CASTLINE_BOTH constexpr int64_t blocks_of(int64_t k) { return (k + kBlockDepth - 1) / kBlockDepth; }

// A weight (n, k) is held by lane 4 * row + quad of a warp, where
//   n = 16 * strip + 8 * upper + row,
//   k = 64 * block + 32 * half + 8 * quad + 4 * word + place.
struct Place {
    int64_t strip, block;
    int32_t upper, row, half, quad, word, place;

    CASTLINE_BOTH constexpr int32_t lane() const { return 4 * row + quad; }
};

CASTLINE_BOTH constexpr Place place_of(int64_t n, int64_t k) {
    return Place{n / kStripRows,
                 k / kBlockDepth,
                 static_cast<int32_t>(n % kStripRows / 8),
                 static_cast<int32_t>(n % 8),
                 static_cast<int32_t>(k % kBlockDepth / kHalfDepth),
                 static_cast<int32_t>(k % kHalfDepth / 8),
                 static_cast<int32_t>(k % 8 / 4),
                 static_cast<int32_t>(k % 4)};
}

// The byte of a 4-bit code; rows 0 to 7 have its low four bits, rows 8 to 15 (`upper`) its high ones.
CASTLINE_BOTH constexpr int64_t byte_of_4(Place at, int64_t blocks) {
    const int64_t in_block = 16 * at.lane() + 8 * at.half + 4 * at.word + at.place;
    return (at.strip * blocks + at.block) * kBlockBytes4 + in_block;
}

CASTLINE_BOTH constexpr int64_t byte_of_8(Place at, int64_t blocks) {
    const int64_t in_half = 16 * at.lane() + 8 * at.word + 4 * at.upper + at.place;
    return (at.strip * blocks + at.block) * kBlockBytes8 + kBlockBytes8 / 2 * at.half + in_half;
}

// The element of a scale (or offset) of group `group` and output channel n, of [strips, groups, 16]:
// a lane finds those of its two rows side by side.
CASTLINE_BOTH constexpr int64_t element_of_scale(int64_t n, int64_t group, int64_t groups) {
    const Place at = place_of(n, 0);
    return (at.strip * groups + group) * kStripRows + 2 * at.row + at.upper;
}

}  // namespace castline
