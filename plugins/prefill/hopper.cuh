// Put a CUTLASS GEMM of warpgroup instructions (sm_90a) together from its types and its epilogue.
#pragma once

#if !defined(NDEBUG)
#error "compile with -DNDEBUG: where CUTLASS calls its assertions, warpgroup instructions wait for each other"
#endif

#include <cuda_runtime.h>

#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/kernel/gemm_universal.hpp"

namespace castline::hopper {

namespace fused = cutlass::epilogue::fusion;
using Cluster = cute::Shape<cute::_2, cute::_1, cute::_1>;
using StrideXW = cute::Stride<int64_t, cute::_1, int64_t>;  // rows of x and of W, which both end in k

constexpr auto kRound = cutlass::FloatRoundStyle::round_to_nearest;

// Operands of the epilogue, of each token (row of y) or output channel (column of y).
template <class Tile, class Element, class As>
using OfToken = fused::Sm90ColBroadcast<0, Tile, Element, As>;
template <class Tile, class Element, class As>
using OfChannel = fused::Sm90RowBroadcast<0, Tile, Element, As>;
template <template <class> class Function, class Result, class Element, class... Operands>
using Apply = fused::Sm90EVT<fused::Sm90Compute<Function, Result, Element, kRound>, Operands...>;

// y [m, n] of T = epilogue(a [m, k] b [n, k]^T); Operand: type of a and b; Sum: of the sums.
template <class Operand, class Sum, class T, class Tile, class Fusion>
struct Product {
    static constexpr int kAligned = 16 / sizeof(Operand);
    static constexpr int kStored = 16 / sizeof(T);
    using RowMajor = cutlass::layout::RowMajor;
    using ColumnMajor = cutlass::layout::ColumnMajor;
    using Tensor = cutlass::arch::OpClassTensorOp;
    using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
        cutlass::arch::Sm90, Tensor, Tile, Cluster, cutlass::epilogue::collective::EpilogueTileAuto, Sum,
        float, void, RowMajor, kStored, T, RowMajor, kStored,
        cutlass::epilogue::TmaWarpSpecializedCooperative, Fusion>::CollectiveOp;
    using Stages = cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
        sizeof(typename Epilogue::SharedStorage))>;
    using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
        cutlass::arch::Sm90, Tensor, Operand, RowMajor, kAligned, Operand, ColumnMajor, kAligned, Sum, Tile,
        Cluster, Stages, cutlass::gemm::KernelTmaWarpSpecializedCooperative>::CollectiveOp;
    using Kernel = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue,
                                                        cutlass::gemm::PersistentScheduler>;
    using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

    static int launch(int32_t m, int32_t n, int32_t k, const void* a, const void* b, void* y,
                      typename Fusion::Arguments epilogue, cudaStream_t stream) {
        const StrideXW by_k{k, cute::_1{}, int64_t{0}};
        const StrideXW by_n{n, cute::_1{}, int64_t{0}};
        typename Gemm::Arguments arguments{
            cutlass::gemm::GemmUniversalMode::kGemm,
            {m, n, k, 1},
            {static_cast<const Operand*>(a), by_k, static_cast<const Operand*>(b), by_k},
            {epilogue, nullptr, {}, static_cast<T*>(y), by_n}};
        Gemm gemm;
        if (gemm(arguments, nullptr, stream) != cutlass::Status::kSuccess) return cudaErrorInvalidValue;
        return cudaGetLastError();
    }
};

}  // namespace castline::hopper
