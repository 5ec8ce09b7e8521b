// Multiply float16 or bfloat16 matrices with CUTLASS: y = x W^T + bias, sums in float32.
#include <cuda_runtime.h>

#include "cutlass/epilogue/thread/linear_combination.h"
#include "cutlass/gemm/device/gemm_universal.h"
#include "gemm.h"

namespace castline {
namespace {

template <class T>
struct FloatProduct {
    static constexpr int kAligned = 16 / sizeof(T);  // elements of a 16-byte load
    using RowMajor = cutlass::layout::RowMajor;
    using ColumnMajor = cutlass::layout::ColumnMajor;
    using Epilogue = cutlass::epilogue::thread::LinearCombination<T, kAligned, float, float>;
    using Gemm = cutlass::gemm::device::GemmUniversal<
        T, RowMajor, T, ColumnMajor, T, RowMajor, float, cutlass::arch::OpClassTensorOp,
        cutlass::arch::Sm80, cutlass::gemm::GemmShape<128, 128, 32>, cutlass::gemm::GemmShape<64, 64, 32>,
        cutlass::gemm::GemmShape<16, 8, 16>, Epilogue,
        cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<8>, 4, kAligned, kAligned>;

    static int launch(const FloatGemm& what, cudaStream_t stream) {
        constexpr int64_t kSameForEveryRow = 0;  // the bias is read as a matrix whose rows are one
        typename Gemm::Arguments arguments(
            cutlass::gemm::GemmUniversalMode::kGemm, {what.m, what.n, what.k}, 1, {1.0F, 1.0F}, what.x,
            what.weight, what.bias, what.y, 0, 0, 0, 0, what.k, what.k, kSameForEveryRow, what.n);
        Gemm gemm;
        if (gemm(arguments, nullptr, stream) != cutlass::Status::kSuccess) return cudaErrorInvalidValue;
        return cudaGetLastError();
    }
};

}  // namespace

int float_gemm(const FloatGemm& what, CastlineStream stream) {
    auto* on = static_cast<cudaStream_t>(stream);
    if (what.type == CASTLINE_FLOAT16) return FloatProduct<cutlass::half_t>::launch(what, on);
    return FloatProduct<cutlass::bfloat16_t>::launch(what, on);
}

}  // namespace castline
