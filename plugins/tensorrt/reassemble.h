// The plugins of ReassembleChannels, and of it with a quantization behind it.
#pragma once

#include "plugin.h"

#include <memory>

namespace castline {

// Give null, with the reason logged, where the attributes are refused.
std::unique_ptr<Plugin> make_reassemble(char const* op, Attributes const& attributes);
std::unique_ptr<Plugin> make_reassemble_quantize(char const* op, Attributes const& attributes);
std::unique_ptr<Plugin> make_reassemble_quantize_asymmetric(char const* op, Attributes const& attributes);

}  // namespace castline
