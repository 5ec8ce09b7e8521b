// Multiply on the emulator in the place of a library's GEMM: the formulas, as loops over host memory.
#pragma once

#include "../common/elements.cuh"
#include "../common/instructions.cuh"
#include "gemm.h"

namespace castline {

inline float float_at(const void* values, int64_t at, int32_t type) {
    const uint16_t bits = static_cast<const uint16_t*>(values)[at];
    return type == CASTLINE_FLOAT16 ? Half::to_float(bits) : BFloat16::to_float(bits);
}

inline void store_at(void* values, int64_t at, int32_t type, float value) {
    static_cast<uint16_t*>(values)[at] =
        type == CASTLINE_FLOAT16 ? Half::from_float(value) : BFloat16::from_float(value);
}

inline int float_gemm(const FloatGemm& of, CastlineStream) {
    for (int64_t m = 0; m < of.m; ++m)
        for (int64_t n = 0; n < of.n; ++n) {
            float sum = 0.0F;
            for (int64_t k = 0; k < of.k; ++k)
                sum += float_at(of.x, m * of.k + k, of.type) * float_at(of.weight, n * of.k + k, of.type);
            store_at(of.y, m * of.n + n, of.type, sum + float_at(of.bias, n, of.type));
        }
    return 0;
}

inline int integer_gemm(const IntegerGemm& of, CastlineStream) {
    for (int64_t m = 0; m < of.m; ++m)
        for (int64_t n = 0; n < of.n; ++n) {
            int32_t sum = 0;
            for (int64_t k = 0; k < of.k; ++k) sum += of.codes[m * of.k + k] * of.weight[n * of.k + k];
            if (of.zero_point != nullptr) sum -= of.zero_point[m] * of.weight_sums[n];
            const float weighted = multiply(static_cast<float>(sum), float_at(of.weight_scale, n, of.type));
            const float scaled = multiply(weighted, of.scale[m]);
            store_at(of.y, m * of.n + n, of.type, add(scaled, float_at(of.bias, n, of.type)));
        }
    return 0;
}

}  // namespace castline
