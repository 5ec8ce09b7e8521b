"""Multiply INT8 by packed INT8 and scale the sums: castline.PackedLinearW8A8, ...W8A8Asymmetric."""

from __future__ import annotations

from castline.plugins.packed_product import packed_product, packed_product_asymmetric

PACKED_LINEAR_W8A8 = packed_product("PackedLinearW8A8", 8)
PACKED_LINEAR_W8A8_ASYMMETRIC = packed_product_asymmetric("PackedLinearW8A8Asymmetric", 8)
