// Choose the library GEMM that a product of many tokens goes to, behind the expansion of its weights.
#include "prefill.h"

#include "expand.cuh"
#include "gemm.h"

#if !defined(__CUDACC__)
#include "plain_gemm.h"
#endif

namespace castline {
namespace {

#if defined(CASTLINE_WITH_CUTLASS) || !defined(__CUDACC__)
constexpr bool kBuilt = true;

#if defined(CASTLINE_WITH_HOPPER)
bool is_hopper() {
    int major = 0;
    int minor = 0;
    return device_attribute(cudaDevAttrComputeCapabilityMajor, &major) == cudaSuccess &&
           device_attribute(cudaDevAttrComputeCapabilityMinor, &minor) == cudaSuccess && major == 9 && minor == 0;
}

int multiply_matrices(const FloatGemm& of, CastlineStream stream) {
    return is_hopper() ? hopper_float_gemm(of, stream) : float_gemm(of, stream);
}

int multiply_matrices(const IntegerGemm& of, CastlineStream stream) {
    return is_hopper() ? hopper_integer_gemm(of, stream) : integer_gemm(of, stream);
}
#else
int multiply_matrices(const FloatGemm& of, CastlineStream stream) { return float_gemm(of, stream); }
int multiply_matrices(const IntegerGemm& of, CastlineStream stream) { return integer_gemm(of, stream); }
#endif
#else
constexpr bool kBuilt = false;

template <class Gemm>
int multiply_matrices(const Gemm&, CastlineStream) {
    return 1;
}
#endif

// 16-byte loads of rows of int8, and 16-byte stores of rows of y.
bool is_aligned(const CastlineProduct& shape) { return shape.k % 16 == 0 && shape.n % 8 == 0; }

int check(const CastlineProduct& shape, bool integer, const CastlineScratch& scratch) {
    const size_t needed = prefill_bytes(shape, integer);
    if (needed != 0 && scratch.partials != nullptr && scratch.partial_bytes >= needed) return 0;
    return fail("prefill [%d, %d] x [%d, %d]: expanded weights need %zu bytes of scratch memory, there are %zu",
                shape.m, shape.k, shape.n, shape.k, needed, scratch.partial_bytes);
}

template <class Gemm>
int multiply(const Gemm& of, CastlineStream stream) {
    const int status = multiply_matrices(of, stream);
    if (status == 0) return 0;
    return fail("prefill [%d, %d] x [%d, %d]: CUTLASS reports CUDA error %d", of.m, of.k, of.n, of.k, status);
}

}  // namespace

bool prefill_takes(const CastlineProduct& shape, bool integer) {
    return shape.m > kPrefillTokens && prefill_bytes(shape, integer) != 0;
}

size_t prefill_bytes(const CastlineProduct& shape, bool integer) {
    if (!kBuilt || !is_aligned(shape)) return 0;
    const size_t weights = static_cast<size_t>(shape.n) * static_cast<size_t>(shape.k);
    return integer ? weights : sizeof(uint16_t) * weights;
}

int prefill_weight_only(const CastlineWeightOnly& what, const CastlineScratch& scratch, CastlineStream stream) {
    const CastlineProduct& shape = what.shape;
    if (const int status = check(shape, false, scratch); status != 0) return status;
    if (const int status = expand_weight_only(what, scratch.partials, stream); status != 0) return status;
    return multiply(FloatGemm{shape.m, shape.n, shape.k, shape.type, what.x, scratch.partials, what.bias, what.y},
                    stream);
}

int prefill_integer(const CastlineInteger& what, const CastlineScratch& scratch, CastlineStream stream) {
    const CastlineProduct& shape = what.shape;
    if (const int status = check(shape, true, scratch); status != 0) return status;
    auto* weight = static_cast<int8_t*>(scratch.partials);
    if (const int status = expand_integer(what, weight, stream); status != 0) return status;
    return multiply(IntegerGemm{shape.m, shape.n, shape.k, shape.type, what.codes, weight, what.scale,
                                what.zero_point, what.weight_sums, what.weight_scale, what.bias, what.y},
                    stream);
}

}  // namespace castline
