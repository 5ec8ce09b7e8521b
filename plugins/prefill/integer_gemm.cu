// Multiply int8 matrices with CUTLASS, and scale the sums per token and output channel.
#include <cuda_runtime.h>

#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/kernel/default_gemm_universal_with_visitor.h"
#include "gemm.h"
#include "rounded_sum.cuh"
// Last: it takes names from the headers above that it does not include.
#include "cutlass/epilogue/threadblock/fusion/visitors.hpp"

namespace castline {
namespace {

namespace fused = cutlass::epilogue::threadblock;

template <class T>
struct IntegerProduct {
    static constexpr int kAligned = 16;  // int8 of a 16-byte load
    static constexpr int kStored = 16 / sizeof(T);
    static constexpr auto kRound = cutlass::FloatRoundStyle::round_to_nearest;
    using Block = cutlass::gemm::GemmShape<128, 128, 64>;
    using Warp = cutlass::gemm::GemmShape<64, 64, 64>;
    using Instruction = cutlass::gemm::GemmShape<16, 8, 32>;
    using Threads = fused::OutputTileThreadLayout<Block, Warp, T, kStored, 1>;

    using PerToken = cute::Stride<cute::_1, cute::_0, cute::_0>;
    using PerChannel = cute::Stride<cute::_0, cute::_1, cute::_0>;
    template <class Element>
    using OfToken = fused::VisitorColBroadcast<Threads, Element, PerToken>;
    template <class Element>
    using OfChannel = fused::VisitorRowBroadcast<Threads, Element, PerChannel>;
    template <template <class> class Function, class Result, class Element, class... Operands>
    using Apply =
        fused::Sm80EVT<fused::VisitorCompute<Function, Result, Element, kRound>, Operands...>;

    using Shift = Apply<cutlass::multiplies, int32_t, int32_t, OfToken<int8_t>, OfChannel<int32_t>>;
    using Sums = Apply<cutlass::minus, float, int32_t, fused::VisitorAccFetch, Shift>;
    using Weighted = Apply<cutlass::multiplies, float, float, Sums, OfChannel<T>>;
    using Scaled = Apply<cutlass::multiplies, float, float, Weighted, OfToken<float>>;
    using Biased = Apply<RoundedSum, T, float, Scaled, OfChannel<T>>;
    using Stored = fused::Sm80EVT<
        fused::VisitorAuxStore<Threads, T, kRound, cute::Stride<int64_t, cute::_1, int64_t>>, Biased>;

    using Kernel = typename cutlass::gemm::kernel::DefaultGemmWithVisitor<
        int8_t, cutlass::layout::RowMajor, cutlass::ComplexTransform::kNone, kAligned, int8_t,
        cutlass::layout::ColumnMajor, cutlass::ComplexTransform::kNone, kAligned, T,
        cutlass::layout::RowMajor, kStored, int32_t, float, cutlass::arch::OpClassTensorOp,
        cutlass::arch::Sm80, Block, Warp, Instruction, Stored,
        cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<8>, 4,
        cutlass::arch::OpMultiplyAddSaturate, 1>::GemmKernel;
    using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

    static typename Stored::Arguments epilogue(const IntegerGemm& what) {
        const auto* weight_scale = static_cast<const T*>(what.weight_scale);
        typename Shift::Arguments shift{{what.zero_point, 0, {}}, {what.weight_sums, 0, {}}, {}};
        typename Sums::Arguments sums{{}, shift, {}};
        typename Weighted::Arguments weighted{sums, {weight_scale, T(1), {}}, {}};
        typename Scaled::Arguments scaled{weighted, {what.scale, 1.0F, {}}, {}};
        typename Biased::Arguments biased{scaled, {static_cast<const T*>(what.bias), T(0), {}}, {}};
        return {biased, {static_cast<T*>(what.y), {what.n, cute::_1{}, int64_t{0}}}};
    }

    static int launch(const IntegerGemm& what, cudaStream_t stream) {
        typename Gemm::Arguments arguments(cutlass::gemm::GemmUniversalMode::kGemm,
                                           {what.m, what.n, what.k}, 1, epilogue(what), what.codes,
                                           what.weight, nullptr, nullptr, 0, 0, 0, 0, what.k, what.k, 0, 0);
        Gemm gemm;
        if (gemm(arguments, nullptr, stream) != cutlass::Status::kSuccess) return cudaErrorInvalidValue;
        return cudaGetLastError();
    }
};

}  // namespace

int integer_gemm(const IntegerGemm& what, CastlineStream stream) {
    auto* on = static_cast<cudaStream_t>(stream);
    if (what.type == CASTLINE_FLOAT16) return IntegerProduct<cutlass::half_t>::launch(what, on);
    return IntegerProduct<cutlass::bfloat16_t>::launch(what, on);
}

}  // namespace castline
