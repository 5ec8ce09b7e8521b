// Finish a tile of y: add what several blocks of threads summed over parts of k, scale, store.
//
// The last block of threads to arrive adds the parts in the order of k, so the same input has the same
// output, bit for bit. It takes its ticket from a counter that wraps to zero: no memory is set per call.
#pragma once

#include "fragments.cuh"

namespace castline {

// Where a tile lies, and its sums in shared memory, [tokens, channels].
struct Tile {
    int32_t token, channel;    // the first ones
    int32_t tokens, channels;  // how many, beyond the edges of y too
    int32_t number;            // among all tiles of y
    int32_t split;
};

template <class Scheme>
__device__ __forceinline__ void store_tile(const Problem& p, const Tile& tile, const typename Scheme::Sum* sums) {
    for (int32_t i = threadIdx.x; i < tile.tokens * tile.channels; i += blockDim.x) {
        const int32_t token = tile.token + i / tile.channels, n = tile.channel + i % tile.channels;
        if (token < p.m && n < p.n) Scheme::store(p, token, n, sums[i]);
    }
}

template <class Scheme>
__device__ __forceinline__ void finish(const Problem& p, const Tile& tile, typename Scheme::Sum* sums) {
    using Sum = typename Scheme::Sum;
    if (p.splits == 1) {
        store_tile<Scheme>(p, tile, sums);
        return;
    }
    const int32_t size = tile.tokens * tile.channels;
    Sum* const parts = static_cast<Sum*>(p.partials) + static_cast<int64_t>(tile.number) * p.splits * size;
    for (int32_t i = threadIdx.x; i < size; i += blockDim.x) parts[tile.split * size + i] = sums[i];
    CASTLINE_SHARED(shared);
    auto* const last = reinterpret_cast<uint32_t*>(shared);
    sync_threads();  // nobody needs the sums in shared memory any more
    if (threadIdx.x == 0) *last = is_last(p.tickets + tile.number, p.splits);
    sync_threads();
    if (*last == 0) return;
    sync_threads();
    const volatile Sum* const fresh = parts;  // past the cache of this multiprocessor
    for (int32_t i = threadIdx.x; i < size; i += blockDim.x) {
        Sum sum = fresh[i];
        for (int32_t split = 1; split < p.splits; ++split) sum += fresh[split * size + i];
        sums[i] = sum;
    }
    store_tile<Scheme>(p, tile, sums);  // each thread stores what it summed
}

}  // namespace castline
