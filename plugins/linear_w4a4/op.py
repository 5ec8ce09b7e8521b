"""Multiply INT4 by INT4 and scale the sums: castline.LinearW4A4, with and without zero-points."""

from __future__ import annotations

from castline.plugins.four_bit_product import four_bit_product, four_bit_product_asymmetric

LINEAR_W4A4 = four_bit_product("LinearW4A4")
LINEAR_W4A4_ASYMMETRIC = four_bit_product_asymmetric("LinearW4A4Asymmetric")
