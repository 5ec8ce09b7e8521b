#include "likeliest.h"

#include "error.h"

#include <string>

namespace sample {
namespace {

// IEEE formats are a sign and a magnitude, and magnitudes are in the order of their bits taken as a whole
// number. What lies beyond the bits of infinity is not a number.
template <typename Bits, typename Signed>
int64_t likeliest_of(Bits const* row, int64_t count, Bits infinity) {
    constexpr Bits kMagnitude = static_cast<Bits>(~Bits{0}) >> 1;
    int64_t best = 0;
    Signed largest = 0;
    for (int64_t i = 0; i < count; ++i) {
        auto const magnitude = static_cast<Signed>(row[i] & kMagnitude);
        if (magnitude > static_cast<Signed>(infinity)) {
            throw Error("logit " + std::to_string(i) +
                        " is not a number: the engine overflows or was damaged; "
                        "`castline check` on its folder says whether its graph does");
        }
        Signed const value = row[i] > kMagnitude ? static_cast<Signed>(-magnitude) : magnitude;
        if (i == 0 || value > largest) {
            largest = value;
            best = i;
        }
    }
    return best;
}

}  // namespace

int64_t likeliest(void const* logits, nvinfer1::DataType type, int64_t count) {
    switch (type) {
        case nvinfer1::DataType::kFLOAT:
            return likeliest_of<uint32_t, int32_t>(static_cast<uint32_t const*>(logits), count, 0x7F800000);
        case nvinfer1::DataType::kHALF:
            return likeliest_of<uint16_t, int16_t>(static_cast<uint16_t const*>(logits), count, 0x7C00);
        case nvinfer1::DataType::kBF16:
            return likeliest_of<uint16_t, int16_t>(static_cast<uint16_t const*>(logits), count, 0x7F80);
        default: throw Error("the logits are of a type that this program does not read; expected floats");
    }
}

}  // namespace sample
