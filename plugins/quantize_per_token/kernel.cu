// Quantize every token of activations by its own range: castline.QuantizePerToken(Asymmetric).
#include "token.cuh"

namespace castline {
namespace {

// codes[m, k] = clip(round(x[m, k] / scale[m]) + zero_point[m]); a block a token.
template <class E, int kVectors>
__global__ void __launch_bounds__(kMostTokenThreads, 1)
    quantize_token(CastlineQuantize what, bool whole_values, bool whole_codes) {
    CASTLINE_SHARED(shared);
    allow_next_kernel();
    wait_for_previous_kernel();
    const uint16_t* row = static_cast<const uint16_t*>(what.x) + static_cast<size_t>(blockIdx.x) * what.k;
    Eight values[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) values[i] = load_eight(row, channel_of(i), what.k, whole_values);
    quantize_values<E>(what, values, whole_codes, shared);
}

template <class E>
int quantize_tokens(const CastlineQuantize& what, CastlineStream stream) {
    const TokenShape shape = token_shape(what.k);
    const bool whole_values = what.k % kVector == 0 && is_aligned(what.x, 16);
    const bool whole_codes = what.k % kVector == 0 && is_aligned(what.codes, 8);
    const auto kernel = shape.vectors == 1   ? quantize_token<E, 1>
                        : shape.vectors == 2 ? quantize_token<E, 2>
                        : shape.vectors == 4 ? quantize_token<E, 4>
                                             : quantize_token<E, kMostVectors>;
    return launch_overlapping(kernel, dim3(static_cast<unsigned>(what.m)),
                              dim3(static_cast<unsigned>(shape.threads)), kRangeBytes, stream, what,
                              whole_values, whole_codes);
}

}  // namespace
}  // namespace castline

int32_t castline_quantize(const CastlineQuantize* what, CastlineStream stream) {
    using namespace castline;
    if (refuse_token("QuantizePerToken", what->m, what->k, what->type) != 0) return 1;
    if (refuse_bits("QuantizePerToken", what->bits) != 0) return 1;
    if (what->m == 0) return 0;
    return what->type == CASTLINE_FLOAT16 ? quantize_tokens<Half>(*what, stream)
                                          : quantize_tokens<BFloat16>(*what, stream);
}
