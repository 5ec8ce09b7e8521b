"""Multiply INT4 by packed INT4 and scale the sums: castline.PackedLinearW4A4, ...W4A4Asymmetric."""

from __future__ import annotations

from castline.plugins.packed_product import packed_product, packed_product_asymmetric

PACKED_LINEAR_W4A4 = packed_product("PackedLinearW4A4", 4)
PACKED_LINEAR_W4A4_ASYMMETRIC = packed_product_asymmetric("PackedLinearW4A4Asymmetric", 4)
