"""Multiply INT8 by 4 bits and scale the sums: castline.LinearW4A8, and with scales of groups."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from castline.plugins.four_bit_product import four_bit_product, four_bit_product_asymmetric
from castline.plugins.linear_w8a8.op import (
    LINEAR_W8A8,
    LINEAR_W8A8_ASYMMETRIC,
    linear_w8a8,
    linear_w8a8_asymmetric,
)
from castline.plugins.op import DOMAIN, PluginOp

Array = NDArray[Any]

LINEAR_W4A8 = four_bit_product("LinearW4A8")
LINEAR_W4A8_ASYMMETRIC = four_bit_product_asymmetric("LinearW4A8Asymmetric")

# ONNX Runtime has no Mul of int8, and computes this once, when it loads the model.
_INT8_WEIGHTS = """
        one = Constant <value_ints = [1]> ()
        rest = Constant <value_ints = [-1]> ()
        block_size = Constant <value_int: int = @block_size> ()
        block = Reshape (block_size, one)
        code_numbers = Cast <to = 6> (weight_codes)
        n = Shape <start = 1> (code_numbers)
        in_groups = Concat <axis = 0> (rest, block, n)
        grouped = Reshape (code_numbers, in_groups)
        scale_numbers = Cast <to = 6> (group_scale)
        of_groups = Unsqueeze (scale_numbers, one)
        products = Mul (grouped, of_groups)
        matrix = Concat <axis = 0> (rest, n)
        weight_numbers = Reshape (products, matrix)
        weights = Cast <to = 3> (weight_numbers)
"""
_OF_WEIGHTS = ("weight_codes", "group_scale", "weight_scale")

LINEAR_W4A8_GROUPS = PluginOp(
    name="LinearW4A8Groups",
    inputs=("codes", "scale", *_OF_WEIGHTS),
    outputs=("y",),
    attributes=("block_size",),
    body=f"{_INT8_WEIGHTS} y = {DOMAIN}.LinearW8A8 (codes, scale, weights, weight_scale)",
    uses=(LINEAR_W8A8,),
)

LINEAR_W4A8_GROUPS_ASYMMETRIC = PluginOp(
    name="LinearW4A8GroupsAsymmetric",
    inputs=("codes", "scale", "zero_point", *_OF_WEIGHTS),
    outputs=("y",),
    attributes=("block_size",),
    body=f"""{_INT8_WEIGHTS}
        y = {DOMAIN}.LinearW8A8Asymmetric (codes, scale, zero_point, weights, weight_scale)""",
    uses=(LINEAR_W8A8_ASYMMETRIC,),
)


def linear_w4a8_groups(
    codes: Array, scale: Array, weight_codes: Array, group_scale: Array, weight_scale: Array
) -> Array:
    """Return y [..., N], of codes times group scales as INT8 weights, in weight_scale's type.

    y[m, n] = (sum over groups g of group_scale[g, n] * (sum over k in g of codes[m, k] *
    weight_codes[k, n])) * weight_scale[n] * scale[m]. `codes` are int8 [..., K] with the float32
    `scale` [..., 1] or []; `weight_codes` are int4 [K, N], `group_scale` int8 [G, N] and
    `weight_scale` [N]. Each code times its group's scale is within INT8. Sums are int32, scaled in
    float32 in that order.
    """
    return linear_w8a8(codes, scale, int8_weights(weight_codes, group_scale), weight_scale)


def linear_w4a8_groups_asymmetric(
    codes: Array,
    scale: Array,
    zero_point: Array,
    weight_codes: Array,
    group_scale: Array,
    weight_scale: Array,
) -> Array:
    """Return the same with codes - zero_point in place of codes; it is int8, shaped as `scale`."""
    weights = int8_weights(weight_codes, group_scale)
    return linear_w8a8_asymmetric(codes, scale, zero_point, weights, weight_scale)


def int8_weights(weight_codes: Array, group_scale: Array) -> Array:
    """Return int8 [K, N]: codes int4 [K, N] times the scales int8 [G, N] of their groups."""
    block = len(weight_codes) // len(group_scale)
    products: Array = weight_codes.astype(np.int32) * group_scale.repeat(block, axis=0)
    assert (np.abs(2 * products + 1) < 256).all(), "group scales keep weights within INT8"
    return products.astype(np.int8)
