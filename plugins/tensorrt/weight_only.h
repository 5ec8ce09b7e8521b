// The plugins of weight-only products: PackedLinearW4A16, PackedLinearW4A16Offsets.
#pragma once

#include "product.h"

#include <memory>

namespace castline {

// Give null, with the reason logged, where the attributes are refused.
std::unique_ptr<Plugin> make_w4a16(char const* op, Attributes const& attributes);
std::unique_ptr<Plugin> make_w4a16_offsets(char const* op, Attributes const& attributes);

}  // namespace castline
