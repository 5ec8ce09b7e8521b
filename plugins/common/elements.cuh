// Convert the 16-bit values of activations to float and back, on the device and on the host.
#pragma once

#include <cstdint>
#include <cstring>

#include "launch.h"
#include "kernels.h"
#include "layout.h"

namespace castline {

CASTLINE_BOTH inline float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

CASTLINE_BOTH inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

constexpr uint32_t kFloatSign = 0x80000000U;
constexpr uint32_t kFloatInfinity = 0x7F800000U;

// float16: sign, 5 bits of exponent, 10 of mantissa.
struct Half {
    static constexpr CastlineType type = CASTLINE_FLOAT16;

    CASTLINE_BOTH static float to_float(uint16_t value) {
#if defined(__CUDA_ARCH__)
        return __half2float(__ushort_as_half(value));
#else
        const uint32_t sign = static_cast<uint32_t>(value & 0x8000U) << 16;
        const uint32_t magnitude = value & 0x7FFFU;
        if (magnitude < 0x0400U) {  // zero and subnormal numbers, in units of 2^-24
            return float_of_bits(sign | bits_of_float(static_cast<float>(magnitude) * 0x1p-24F));
        }
        const uint32_t bias = magnitude < 0x7C00U ? 112U << 23 : 224U << 23;  // infinity and NaN stay so
        return float_of_bits(sign | ((magnitude << 13) + bias));
#endif
    }

    // The nearest, ties to even.
    CASTLINE_BOTH static uint16_t from_float(float value) {
#if defined(__CUDA_ARCH__)
        return __half_as_ushort(__float2half_rn(value));
#else
        const uint32_t bits = bits_of_float(value);
        const uint32_t sign = (bits & kFloatSign) >> 16;
        const uint32_t magnitude = bits & ~kFloatSign;
        uint32_t rounded;
        if (magnitude > kFloatInfinity) {
            rounded = 0x7FFFU;
        } else if (magnitude >= bits_of_float(65520.F)) {  // half a step above the largest number
            rounded = 0x7C00U;
        } else if (magnitude < bits_of_float(0x1p-14F)) {  // the sum is rounded to units of 2^-24
            rounded = bits_of_float(float_of_bits(magnitude) + 0.5F) - bits_of_float(0.5F);
        } else {
            rounded = (magnitude - (112U << 23) + 0xFFFU + ((magnitude >> 13) & 1U)) >> 13;
        }
        return static_cast<uint16_t>(sign | rounded);
#endif
    }
};

// bfloat16: the upper half of a float.
struct BFloat16 {
    static constexpr CastlineType type = CASTLINE_BFLOAT16;

    CASTLINE_BOTH static float to_float(uint16_t value) {
        return float_of_bits(static_cast<uint32_t>(value) << 16);
    }

    // The nearest, ties to even.
    CASTLINE_BOTH static uint16_t from_float(float value) {
#if defined(__CUDA_ARCH__)
        return __bfloat16_as_ushort(__float2bfloat16_rn(value));
#else
        const uint32_t bits = bits_of_float(value);
        if ((bits & ~kFloatSign) > kFloatInfinity) return 0x7FFFU;
        return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
#endif
    }
};

}  // namespace castline
