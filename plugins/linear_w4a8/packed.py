"""Multiply INT8 by packed INT4 and scale the sums: castline.PackedLinearW4A8, and in groups."""

from __future__ import annotations

from castline.plugins.packed_product import (
    packed_product,
    packed_product_asymmetric,
    packed_product_in_groups,
)

PACKED_LINEAR_W4A8 = packed_product("PackedLinearW4A8", 4)
PACKED_LINEAR_W4A8_ASYMMETRIC = packed_product_asymmetric("PackedLinearW4A8Asymmetric", 4)
PACKED_LINEAR_W4A8_GROUPS = packed_product_in_groups("PackedLinearW4A8Groups", asymmetric=False)
PACKED_LINEAR_W4A8_GROUPS_ASYMMETRIC = packed_product_in_groups(
    "PackedLinearW4A8GroupsAsymmetric", asymmetric=True
)
