"""Multiply codes by 4-bit codes: what LinearW4A8 and LinearW4A4 have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from castline.plugins.op import PluginOp

Array = NDArray[Any]

# As in castline.LinearW8A8, codes of activations are multiplied as unsigned bytes; those of
# weights, -8 to 15, are widened to signed ones, which the instructions of x86 take beside them.
_PRODUCT = """
        one = Constant <value_float = 1.0> ()
        middle = Constant <value = uint8 {128}> ()
        code_values = Cast <to = 1> (codes)
        unsigned_codes = QuantizeLinear (code_values, one, middle)
        weight_bytes = Cast <to = 3> (weight_codes)
        weight_zero_bytes = Cast <to = 3> (weight_zero_point)
        sums = MatMulInteger (unsigned_codes, weight_bytes, middle, weight_zero_bytes)
"""
_WITHOUT_ZERO_POINTS = """
        first = Constant <value_ints = [0]> ()
        weight_numbers = Cast <to = 6> (weight_bytes)
        weight_zero_numbers = Cast <to = 6> (weight_zero_bytes)
        weight_steps = Sub (weight_numbers, weight_zero_numbers)
        column_sums = ReduceSum <keepdims = 0> (weight_steps, first)
        zero_number = Cast <to = 6> (zero_point)
        of_zero_points = Mul (zero_number, column_sums)
        corrected = Sub (sums, of_zero_points)
"""
_SCALED = """
        weight_scale_wide = Cast <to = 1> (weight_scale)
        of_codes = Cast <to = 1> (SUMS)
        of_weights = Mul (of_codes, weight_scale_wide)
        wide = Mul (of_weights, scale)
        y = CastLike (wide, weight_scale)
"""
_OF_WEIGHTS = ("weight_codes", "weight_scale", "weight_zero_point")


def four_bit_product(name: str) -> PluginOp:
    """Return an op that multiplies codes around zero by weights of 4 bits."""
    body = _PRODUCT + _SCALED.replace("SUMS", "sums")
    return PluginOp(name, ("codes", "scale", *_OF_WEIGHTS), ("y",), (), body)


def four_bit_product_asymmetric(name: str) -> PluginOp:
    """Return the same for codes that have zero-points."""
    body = _PRODUCT + _WITHOUT_ZERO_POINTS + _SCALED.replace("SUMS", "corrected")
    return PluginOp(name, ("codes", "scale", "zero_point", *_OF_WEIGHTS), ("y",), (), body)


def linear_w4(
    codes: Array, scale: Array, weight_codes: Array, weight_scale: Array, weight_zero_point: Array
) -> Array:
    """Return y [..., N] = (codes @ (weight_codes - weight_zero_point)) * weight_scale * scale.

    `codes` are int8 [..., K] with the float32 `scale` [..., 1] or []; `weight_codes` are int4 or
    uint4 [K, N] with `weight_scale` and, of their type, `weight_zero_point`, [N] or []. Sums are
    int32, scaled in float32 in that order, and rounded to the type of `weight_scale` once.
    """
    sums = codes.astype(np.int32) @ _steps(weight_codes, weight_zero_point)
    return _scaled(sums, scale, weight_scale)


def linear_w4_asymmetric(
    codes: Array,
    scale: Array,
    zero_point: Array,
    weight_codes: Array,
    weight_scale: Array,
    weight_zero_point: Array,
) -> Array:
    """Return the same with codes - zero_point in place of codes.

    `zero_point` is int8 and has the shape of `scale`. Its part of the sums is taken off as
    integers, so nothing is rounded before scaling.
    """
    steps = _steps(weight_codes, weight_zero_point)
    of_zero_points = zero_point.astype(np.int32) * steps.sum(0, dtype=np.int32)
    return _scaled(codes.astype(np.int32) @ steps - of_zero_points, scale, weight_scale)


def _steps(weight_codes: Array, weight_zero_point: Array) -> Array:
    result: Array = weight_codes.astype(np.int32) - weight_zero_point.astype(np.int32)
    return result


def _scaled(sums: Array, scale: Array, weight_scale: Array) -> Array:
    of_weights = sums.astype(np.float32) * weight_scale.astype(np.float32)
    return (of_weights * scale).astype(weight_scale.dtype)
