// Multiply int8 matrices with warpgroup instructions, and scale the sums per token and output channel.
#include "gemm.h"
#include "hopper.cuh"
#include "rounded_sum.cuh"

namespace castline {
namespace {

template <class T>
struct IntegerProduct {
    using Tile = cute::Shape<cute::_128, cute::_256, cute::_128>;
    using Shift = hopper::Apply<cutlass::multiplies, int32_t, int32_t, hopper::OfToken<Tile, int8_t, int32_t>,
                                hopper::OfChannel<Tile, int32_t, int32_t>>;
    using Sums = hopper::Apply<cutlass::minus, float, int32_t, hopper::fused::Sm90AccFetch, Shift>;
    using Weighted =
        hopper::Apply<cutlass::multiplies, float, float, Sums, hopper::OfChannel<Tile, T, float>>;
    using Scaled =
        hopper::Apply<cutlass::multiplies, float, float, Weighted, hopper::OfToken<Tile, float, float>>;
    using Biased = hopper::Apply<RoundedSum, T, float, Scaled, hopper::OfChannel<Tile, T, float>>;

    static int launch(const IntegerGemm& what, cudaStream_t stream) {
        const auto* weight_scale = static_cast<const T*>(what.weight_scale);
        typename Shift::Arguments shift{{what.zero_point, 0, {}}, {what.weight_sums, 0, {}}, {}};
        typename Sums::Arguments sums{{}, shift, {}};
        typename Weighted::Arguments weighted{sums, {weight_scale, T(1), {}}, {}};
        typename Scaled::Arguments scaled{weighted, {what.scale, 1.0F, {}}, {}};
        typename Biased::Arguments biased{scaled, {static_cast<const T*>(what.bias), T(0), {}}, {}};
        return hopper::Product<int8_t, int32_t, T, Tile, Biased>::launch(
            what.m, what.n, what.k, what.codes, what.weight, what.y, biased, stream);
    }
};

}  // namespace

int hopper_integer_gemm(const IntegerGemm& what, CastlineStream stream) {
    auto* on = static_cast<cudaStream_t>(stream);
    if (what.type == CASTLINE_FLOAT16) return IntegerProduct<cutlass::half_t>::launch(what, on);
    return IntegerProduct<cutlass::bfloat16_t>::launch(what, on);
}

}  // namespace castline
