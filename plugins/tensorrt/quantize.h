// The plugins of QuantizePerToken and QuantizePerTokenAsymmetric.
#pragma once

#include "plugin.h"

#include <memory>

namespace castline {

// Give null, with the reason logged, where the attributes are refused.
std::unique_ptr<Plugin> make_quantize(char const* op, Attributes const& attributes);
std::unique_ptr<Plugin> make_quantize_asymmetric(char const* op, Attributes const& attributes);

std::vector<Tensor> quantized_outputs(bool asymmetric);  // codes, scale, zero_point
CastlineQuantize quantize_arguments(int32_t tokens, int32_t channels, int32_t activation, int32_t bits,
                                    void* const* outputs, bool asymmetric);  // without x

}  // namespace castline
