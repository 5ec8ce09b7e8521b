// Multiply float16 or bfloat16 matrices with warpgroup instructions: y = x W^T + bias.
#include "gemm.h"
#include "hopper.cuh"

namespace castline {
namespace {

template <class T>
struct FloatProduct {
    using Tile = cute::Shape<cute::_128, cute::_256, cute::_64>;
    using Biased = hopper::Apply<cutlass::plus, T, float, hopper::fused::Sm90AccFetch,
                                 hopper::OfChannel<Tile, T, float>>;

    static int launch(const FloatGemm& what, cudaStream_t stream) {
        typename Biased::Arguments epilogue{{}, {static_cast<const T*>(what.bias), T(0), {}}, {}};
        return hopper::Product<T, float, T, Tile, Biased>::launch(what.m, what.n, what.k, what.x,
                                                                  what.weight, what.y, epilogue, stream);
    }
};

}  // namespace

int hopper_float_gemm(const FloatGemm& what, CastlineStream stream) {
    auto* on = static_cast<cudaStream_t>(stream);
    if (what.type == CASTLINE_FLOAT16) return FloatProduct<cutlass::half_t>::launch(what, on);
    return FloatProduct<cutlass::bfloat16_t>::launch(what, on);
}

}  // namespace castline
