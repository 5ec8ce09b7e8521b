// The plugins of products of codes by codes: PackedLinearW8A8, W4A8, W4A8Groups, W4A4, and Asymmetric.
#pragma once

#include "product.h"

#include <memory>

namespace castline {

// Give null, with the reason logged, where the attributes are refused.
std::unique_ptr<Plugin> make_w8(char const* op, Attributes const& attributes);
std::unique_ptr<Plugin> make_w8_asymmetric(char const* op, Attributes const& attributes);
std::unique_ptr<Plugin> make_w4(char const* op, Attributes const& attributes);
std::unique_ptr<Plugin> make_w4_asymmetric(char const* op, Attributes const& attributes);
std::unique_ptr<Plugin> make_w4_groups(char const* op, Attributes const& attributes);
std::unique_ptr<Plugin> make_w4_groups_asymmetric(char const* op, Attributes const& attributes);

}  // namespace castline
