"""Multiply INT8 by INT4 and scale the sums: castline.LinearW4A8, with and without zero-points."""

from __future__ import annotations

from castline.plugins.four_bit_product import four_bit_product, four_bit_product_asymmetric

LINEAR_W4A8 = four_bit_product("LinearW4A8")
LINEAR_W4A8_ASYMMETRIC = four_bit_product_asymmetric("LinearW4A8Asymmetric")
