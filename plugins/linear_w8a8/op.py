"""Multiply INT8 by INT8 and scale the sums: castline.LinearW8A8, with and without zero-points."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from castline.plugins.op import PluginOp

Array = NDArray[Any]

# On x86 the instructions multiply unsigned by signed bytes: codes of activations are moved by 128
# and the zero-point with them. int8 by int8 takes a loop there that is ten times slower.
_INTEGER_PRODUCT = """
        one = Constant <value_float = 1.0> ()
        middle = Constant <value = uint8 {128}> ()
        code_values = Cast <to = 1> (codes)
        unsigned_codes = QuantizeLinear (code_values, one, middle)
        sums = MatMulInteger (unsigned_codes, weight_codes, middle)
"""
_SCALED = """
        weight_scale_wide = Cast <to = 1> (weight_scale)
        of_codes = Cast <to = 1> (corrected)
        of_weights = Mul (of_codes, weight_scale_wide)
        wide = Mul (of_weights, scale)
        y = CastLike (wide, weight_scale)
"""

LINEAR_W8A8 = PluginOp(
    name="LinearW8A8",
    inputs=("codes", "scale", "weight_codes", "weight_scale"),
    outputs=("y",),
    attributes=(),
    body=_INTEGER_PRODUCT + _SCALED.replace("corrected", "sums"),
)

LINEAR_W8A8_ASYMMETRIC = PluginOp(
    name="LinearW8A8Asymmetric",
    inputs=("codes", "scale", "zero_point", "weight_codes", "weight_scale"),
    outputs=("y",),
    attributes=(),
    body=f"""{_INTEGER_PRODUCT}
        first = Constant <value_ints = [0]> ()
        weight_numbers = Cast <to = 6> (weight_codes)
        column_sums = ReduceSum <keepdims = 0> (weight_numbers, first)
        zero_number = Cast <to = 6> (zero_point)
        of_zero_points = Mul (zero_number, column_sums)
        corrected = Sub (sums, of_zero_points)
{_SCALED}""",
)


def linear_w8a8(codes: Array, scale: Array, weight_codes: Array, weight_scale: Array) -> Array:
    """Return y [..., N] = (codes @ weight_codes) * weight_scale * scale, in weight_scale's type.

    `codes` are int8 [..., K] with the float32 `scale` [..., 1] or []; `weight_codes` are int8
    [K, N] with `weight_scale` [N] or []. Sums are int32, and scaled in float32 in that order.
    """
    sums = codes.astype(np.int32) @ weight_codes.astype(np.int32)
    return _scaled(sums, scale, weight_scale)


def linear_w8a8_asymmetric(
    codes: Array, scale: Array, zero_point: Array, weight_codes: Array, weight_scale: Array
) -> Array:
    """Return y [..., N] = ((codes - zero_point) @ weight_codes) * weight_scale * scale.

    `zero_point` is int8 and has the shape of `scale`. The zero-points' part of the sums is taken
    off as integers, zero_point * column sums of the weights, so nothing is rounded before scaling.
    """
    sums = codes.astype(np.int32) @ weight_codes.astype(np.int32)
    of_zero_points = zero_point.astype(np.int32) * weight_codes.sum(0, dtype=np.int32)
    return _scaled(sums - of_zero_points, scale, weight_scale)


def _scaled(sums: Array, scale: Array, weight_scale: Array) -> Array:
    of_weights = sums.astype(np.float32) * weight_scale.astype(np.float32)
    return (of_weights * scale).astype(weight_scale.dtype)
