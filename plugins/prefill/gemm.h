// Declare the library GEMMs of prefill: operands are row-major with 16-byte aligned rows, and the sums
// are of k products; every function returns 0 or a cudaError_t.
#pragma once

#include <cstdint>

#include "../common/kernels.h"

namespace castline {

struct FloatGemm {
    int32_t m, n, k;
    int32_t type;        // CastlineType of every operand
    const void* x;       // [m, k]
    const void* weight;  // [n, k]
    const void* bias;    // [n]
    void* y;             // [m, n]
};

struct IntegerGemm {
    int32_t m, n, k;
    int32_t type;                // CastlineType of weight_scale, bias and y
    const int8_t* codes;         // [m, k]
    const int8_t* weight;        // [n, k]
    const float* scale;          // [m]
    const int8_t* zero_point;    // [m], or null: all are 0
    const int32_t* weight_sums;  // [n], or null with zero_point
    const void* weight_scale;    // [n]
    const void* bias;            // [n]
    void* y;                     // [m, n]
};

// Instructions of compute capability 8.0, which every later one has too.
int float_gemm(const FloatGemm& what, CastlineStream stream);
int integer_gemm(const IntegerGemm& what, CastlineStream stream);

// Warpgroup instructions of 9.0, in files of their own that are compiled for sm_90a alone.
int hopper_float_gemm(const FloatGemm& what, CastlineStream stream);
int hopper_integer_gemm(const IntegerGemm& what, CastlineStream stream);

}  // namespace castline
