// Take channels of every token apart and put others together: castline.ReassembleChannels, and
// castline.ReassembleAndQuantize(Asymmetric), which quantizes the result where it lies.
//
// A block has a token. Its row waits in shared memory, where any channel may be asked for. A place that
// more channels are added to is computed as a whole by the thread that has the first of them: sums are in
// the order of the op. What has not to do with x is loaded before x is there.
#include "../quantize_per_token/token.cuh"

namespace castline {
namespace {

// How many sources, of 16 registers each, are loaded before x is there: what leaves room for the values.
CASTLINE_BOTH constexpr int vectors_ahead(int vectors) {
    return vectors <= 2 ? vectors : vectors == 4 ? 2 : 1;
}

// Where eight values come from: channel and factor of each.
struct Sources {
    int32_t channel[kVector];
    float factor[kVector];
};

// Shared memory: ranges of warps, the row, and values of places with more.
struct Layout {
    int32_t row, more, bytes;
};

CASTLINE_BOTH constexpr Layout layout_of(int32_t k, int32_t extras) {
    const int32_t row_bytes = (k + kVector - 1) / kVector * kVector * 2;
    return {kRangeBytes, kRangeBytes + row_bytes, kRangeBytes + row_bytes + 2 * extras};
}

__device__ __forceinline__ Sources load_sources(const CastlineReassemble& what, int32_t at, bool whole) {
    Sources sources = {};
    if (at >= what.k) return sources;
    if (whole) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const uint4 channel = load_16(what.gather + at + 4 * half);
            const uint4 factor = load_16(what.scale + at + 4 * half);
            const uint32_t channels[4] = {channel.x, channel.y, channel.z, channel.w};
            const uint32_t factors[4] = {factor.x, factor.y, factor.z, factor.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                sources.channel[4 * half + i] = static_cast<int32_t>(channels[i]);
                sources.factor[4 * half + i] = float_of_bits(factors[i]);
            }
        }
        return sources;
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
        if (at + i >= what.k) continue;
        sources.channel[i] = what.gather[at + i];
        sources.factor[i] = what.scale[at + i];
    }
    return sources;
}

template <class E>
__device__ __forceinline__ float product(const uint16_t* row, int32_t channel, float factor) {
    return multiply(E::to_float(row[channel]), factor);
}

// What lies behind the last channel has factor 0, but a NaN or an infinity must not get there.
template <class E>
__device__ __forceinline__ Eight place_eight(const uint16_t* row, const Sources& sources, int32_t at,
                                             int32_t k) {
    Eight values = {};
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
        if (at + i >= k) continue;
        values.put(i, E::from_float(product<E>(row, sources.channel[i], sources.factor[i])));
    }
    return values;
}

__device__ __forceinline__ int32_t thread() { return static_cast<int32_t>(threadIdx.x); }
__device__ __forceinline__ int32_t threads() { return static_cast<int32_t>(blockDim.x); }

__device__ __forceinline__ bool is_first_of_place(const int32_t* place, int32_t p) {
    return p == 0 || place[p - 1] != place[p];
}

// The row into shared memory, all of it under way at once.
template <int kVectors>
__device__ __forceinline__ void copy_row(uint16_t* row, const uint16_t* x, int32_t k, bool whole) {
    for (int i = 0; i < kVectors; ++i) {
        const int32_t at = channel_of(i);
        if (!whole) {
            store_eight(row, at, k, false, load_eight(x, at, k, false));
        } else if (at < k) {
            cp_async_16(row + at, x + at, true);
        }
    }
    cp_async_commit();
    cp_async_wait<0>();
}

// The value of place[p], in the order of the op.
template <class E>
__device__ __forceinline__ uint16_t sum_of_place(const CastlineReassemble& what, const uint16_t* row,
                                                 int32_t p) {
    const int32_t place = what.place[p];
    float sum = product<E>(row, what.gather[place], what.scale[place]);
    for (int32_t q = p; q < what.extras && what.place[q] == place; ++q) {
        sum = add(sum, product<E>(row, what.channel[q], what.channel_scale[q]));
    }
    return E::from_float(sum);
}

// Overwrites, of the values that this thread holds, those of places with more by their sums. They are
// exchanged through `row`, which nobody reads any more.
template <int kVectors>
__device__ __forceinline__ void take_sums(const CastlineReassemble& what, Eight (&values)[kVectors],
                                          uint16_t* row, const uint16_t* more) {
    const int32_t row_channels = (what.k + kVector - 1) / kVector * kVector;
    sync_threads();
#pragma unroll
    for (int i = 0; i < kVectors; ++i) store_eight(row, channel_of(i), row_channels, true, values[i]);
    sync_threads();
    for (int32_t p = thread(); p < what.extras; p += threads()) {
        if (is_first_of_place(what.place, p)) row[what.place[p]] = more[p];
    }
    sync_threads();
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
        if (channel_of(i) < row_channels) values[i] = *reinterpret_cast<const Eight*>(row + channel_of(i));
    }
}

struct Whole {
    bool x, sources, y, codes;
};

// y[m, k] = x[m, gather[k]] * scale[k] + sum over p with place[p] = k of x[m, channel[p]] * channel_scale[p],
// and, where y is null, its codes.
template <class E, int kVectors>
__global__ void __launch_bounds__(kMostTokenThreads, 1)
    reassemble_token(CastlineReassemble what, CastlineQuantize codes, Whole whole) {
    CASTLINE_SHARED(shared);
    const Layout layout = layout_of(what.k, what.extras);
    uint16_t* row = reinterpret_cast<uint16_t*>(shared + layout.row);
    uint16_t* more = reinterpret_cast<uint16_t*>(shared + layout.more);
    constexpr int kAhead = vectors_ahead(kVectors);
    Sources ahead[kAhead];
    allow_next_kernel();
#pragma unroll
    for (int i = 0; i < kAhead; ++i) ahead[i] = load_sources(what, channel_of(i), whole.sources);

    wait_for_previous_kernel();
    const size_t token = static_cast<size_t>(blockIdx.x) * what.k;
    const uint16_t* x = static_cast<const uint16_t*>(what.x) + token;
    copy_row<kVectors>(row, x, what.k, whole.x);
    sync_threads();

    Eight values[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
        const Sources sources = i < kAhead ? ahead[i] : load_sources(what, channel_of(i), whole.sources);
        values[i] = place_eight<E>(row, sources, channel_of(i), what.k);
    }
    for (int32_t p = thread(); p < what.extras; p += threads()) {
        if (is_first_of_place(what.place, p)) more[p] = sum_of_place<E>(what, row, p);
    }
    if (what.extras > 0) take_sums(what, values, row, more);

    if (what.y == nullptr) {
        quantize_values<E>(codes, values, whole.codes, shared);
        return;
    }
    uint16_t* y = static_cast<uint16_t*>(what.y) + token;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) store_eight(y, channel_of(i), what.k, whole.y, values[i]);
}

template <class E>
int reassemble_tokens(const CastlineReassemble& what, const CastlineQuantize& codes, CastlineStream stream) {
    const TokenShape shape = token_shape(what.k);
    const bool vectors = what.k % kVector == 0;
    const Whole whole = {vectors && is_aligned(what.x, 16),
                         vectors && is_aligned(what.gather, 16) && is_aligned(what.scale, 16),
                         vectors && is_aligned(what.y, 16), vectors && is_aligned(codes.codes, 8)};
    const auto kernel = shape.vectors == 1   ? reassemble_token<E, 1>
                        : shape.vectors == 2 ? reassemble_token<E, 2>
                        : shape.vectors == 4 ? reassemble_token<E, 4>
                                             : reassemble_token<E, kMostVectors>;
    const size_t bytes = static_cast<size_t>(layout_of(what.k, what.extras).bytes);
    return launch_overlapping(kernel, dim3(static_cast<unsigned>(what.m)),
                              dim3(static_cast<unsigned>(shape.threads)), bytes, stream, what, codes, whole);
}

int reassemble(const char* op, const CastlineReassemble& what, const CastlineQuantize& codes,
               CastlineStream stream) {
    if (refuse_token(op, what.m, what.k, what.type) != 0) return 1;
    if (what.extras < 0 || what.extras > what.k) {
        return fail("%s: %d channels to add to %d; there must be 0 to k", op, what.extras, what.k);
    }
    if (what.k + what.extras > CASTLINE_MOST_REASSEMBLED_CHANNELS) {
        return fail("%s: %d channels and %d to add: a block has room for %d together", op, what.k, what.extras,
                    CASTLINE_MOST_REASSEMBLED_CHANNELS);
    }
    if (what.m == 0) return 0;
    return what.type == CASTLINE_FLOAT16 ? reassemble_tokens<Half>(what, codes, stream)
                                         : reassemble_tokens<BFloat16>(what, codes, stream);
}

}  // namespace
}  // namespace castline

int32_t castline_reassemble(const CastlineReassemble* what, CastlineStream stream) {
    const char* op = "ReassembleChannels";
    if (what->y == nullptr) return castline::fail("%s: there is no y to write", op);
    return castline::reassemble(op, *what, CastlineQuantize{}, stream);
}

int32_t castline_reassemble_quantize(const CastlineReassemble* channels, const CastlineQuantize* what,
                                     CastlineStream stream) {
    const char* op = "ReassembleAndQuantize";
    if (castline::refuse_bits(op, what->bits) != 0) return 1;
    if (channels->m != what->m || channels->k != what->k || channels->type != what->type) {
        return castline::fail("%s: m, k, type are %d, %d, %d of the channels and %d, %d, %d of the codes", op,
                              channels->m, channels->k, channels->type, what->m, what->k, what->type);
    }
    CastlineReassemble inside = *channels;
    inside.y = nullptr;
    return castline::reassemble(op, inside, *what, stream);
}
