// Refuse attributes that no kernel takes, in words, when a plugin is made.
#pragma once

#include "attributes.h"

namespace castline {

bool takes_layout(char const* op, Attributes const& attributes);   // layout_version
bool takes_product(char const* op, Attributes const& attributes);  // n, k
bool takes_groups(char const* op, Attributes const& attributes);   // block_size
bool takes_bits(char const* op, Attributes const& attributes);     // bits

}  // namespace castline
