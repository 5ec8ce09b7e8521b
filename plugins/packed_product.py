"""Multiply codes by packed codes: what the packed ops of integer products have in common."""

from __future__ import annotations

import numpy as np

from castline.plugins.op import PluginOp
from castline.plugins.packing import unpack, unpack_scales
from castline.plugins.run_time_grid import Array
from castline.plugins.unpacking import WEIGHTS, of_groups

_FOUR_BITS = 4
_ATTRIBUTES = ("k", "n", "layout_version")
# As in castline.LinearW8A8, codes of activations are multiplied as unsigned bytes.
_PRODUCT = """
        one = Constant <value_float = 1.0> ()
        middle = Constant <value = uint8 {128}> ()
        code_values = Cast <to = 1> (codes)
        unsigned_codes = QuantizeLinear (code_values, one, middle)
"""
_SUMS = {
    4: """weight_bytes = Cast <to = 3> (weight_codes)
        sums = MatMulInteger (unsigned_codes, weight_bytes, middle, weight_zero_point)""",
    8: "sums = MatMulInteger (unsigned_codes, weight_codes, middle)",
}
# Codes times the scale of their group are within INT8; ONNX Runtime has no Mul of that type.
_IN_GROUPS = """
        block_size = Constant <value_int: int = @block_size> ()
        block = Reshape (block_size, vector)
        group_shape = Concat <axis = 0> (rest_of_it, block, n_end)
        code_numbers = Cast <to = 6> (weight_codes)
        grouped = Reshape (code_numbers, group_shape)
        group_numbers = Cast <to = 6> (group_scale_of_groups)
        of_each_group = Unsqueeze (group_numbers, vector)
        products = Mul (grouped, of_each_group)
        matrix_shape = Concat <axis = 0> (rest_of_it, n_end)
        weight_numbers = Reshape (products, matrix_shape)
        weight_bytes = Cast <to = 3> (weight_numbers)
        sums = MatMulInteger (unsigned_codes, weight_bytes, middle)
"""
_WITHOUT_ZERO_POINTS = """
        zero_number = Cast <to = 6> (zero_point)
        of_zero_points = Mul (zero_number, weight_sums)
        corrected = Sub (sums, of_zero_points)
"""
_SCALED = """
        weight_scale_wide = Cast <to = 1> (weight_scale)
        of_codes = Cast <to = 1> (SUMS)
        of_weights = Mul (of_codes, weight_scale_wide)
        scaled = Mul (of_weights, scale)
        wide_bias = Cast <to = 1> (bias)
        wide = Add (scaled, wide_bias)
        y = CastLike (wide, weight_scale)
"""


def packed_product(name: str, bits: int) -> PluginOp:
    """Return an op that multiplies codes around zero by packed weights of 4 or 8 bits."""
    body = f"{WEIGHTS[bits]}{_PRODUCT}{_SUMS[bits]}{_SCALED.replace('SUMS', 'sums')}"
    inputs = ("codes", "scale", *_of_weights(bits), "bias")
    return PluginOp(name, inputs, ("y",), _ATTRIBUTES, body)


def packed_product_asymmetric(name: str, bits: int) -> PluginOp:
    """Return the same for codes that have zero-points; it reads sums of weights, int32 [N]."""
    corrected = f"{_WITHOUT_ZERO_POINTS}{_SCALED.replace('SUMS', 'corrected')}"
    body = f"{WEIGHTS[bits]}{_PRODUCT}{_SUMS[bits]}{corrected}"
    inputs = ("codes", "scale", "zero_point", *_of_weights(bits), "weight_sums", "bias")
    return PluginOp(name, inputs, ("y",), _ATTRIBUTES, body)


def packed_product_in_groups(name: str, *, asymmetric: bool) -> PluginOp:
    """Return an op whose packed 4-bit weights have an INT8 scale a group, and one a channel."""
    product = f"{WEIGHTS[4]}{of_groups('group_scale')}{_PRODUCT}{_IN_GROUPS}"
    corrected = _WITHOUT_ZERO_POINTS if asymmetric else ""
    body = f"{product}{corrected}{_SCALED.replace('SUMS', 'corrected' if asymmetric else 'sums')}"
    of_tokens = ("codes", "scale", *(("zero_point",) if asymmetric else ()))
    of_weights = ("packed", "group_scale", "weight_scale")
    inputs = (*of_tokens, *of_weights, *(("weight_sums",) if asymmetric else ()), "bias")
    return PluginOp(name, inputs, ("y",), (*_ATTRIBUTES, "block_size"), body)


def _of_weights(bits: int) -> tuple[str, ...]:
    zero_point = ("weight_zero_point",) if bits == _FOUR_BITS else ()
    return ("packed", "weight_scale", *zero_point)


def packed_linear(
    codes: Array,
    scale: Array,
    packed: Array,
    weight_scale: Array,
    weight_zero_point: Array,
    bias: Array,
    *,
    bits: int,
) -> Array:
    """Return y [..., N] = (codes @ (weights - weight_zero_point)) * weight_scale * scale + bias.

    `codes` are int8 [..., K] with the float32 `scale` [..., 1]; `packed` is what `pack` makes of
    weights [N, K]; `weight_scale`, the int8 `weight_zero_point` and `bias` are [N]. Sums are int32,
    scaled in float32 in that order, and rounded to the type of `weight_scale` once.
    """
    steps = _steps(codes, packed, weight_zero_point, bits)
    return _scaled(codes.astype(np.int32) @ steps, scale, weight_scale, bias)


def packed_linear_asymmetric(
    codes: Array,
    scale: Array,
    zero_point: Array,
    packed: Array,
    weight_scale: Array,
    weight_zero_point: Array,
    weight_sums: Array,
    bias: Array,
    *,
    bits: int,
) -> Array:
    """Return the same with codes - zero_point in place of codes.

    `zero_point` is int8 in the shape of `scale`; `weight_sums` [N] are the int32 sums over K of
    weights - weight_zero_point, so that its part of the sums is taken off as integers.
    """
    sums = codes.astype(np.int32) @ _steps(codes, packed, weight_zero_point, bits)
    of_zero_points = zero_point.astype(np.int32) * weight_sums
    return _scaled(sums - of_zero_points, scale, weight_scale, bias)


def packed_linear_in_groups(
    codes: Array,
    scale: Array,
    packed: Array,
    group_scale: Array,
    weight_scale: Array,
    bias: Array,
    *,
    zero_point: Array | None = None,
) -> Array:
    """Return y [..., N] = (codes @ (weights * group_scale)) * weight_scale * scale + bias.

    `group_scale` is what `pack_scales` makes of int8 [N, G]; the rest is as in `packed_linear`.
    """
    n, k = len(bias), codes.shape[-1]
    levels = unpack_scales(group_scale, n).astype(np.int32)
    weights = unpack(packed, n, k, 4) * levels.repeat(k // levels.shape[1], axis=1)
    shifted = codes.astype(np.int32) - (0 if zero_point is None else zero_point.astype(np.int32))
    return _scaled(shifted @ weights.T, scale, weight_scale, bias)


def _steps(codes: Array, packed: Array, weight_zero_point: Array, bits: int) -> Array:
    """Return weights - weight_zero_point, int32 [K, N]."""
    weights = unpack(packed, len(weight_zero_point), codes.shape[-1], bits).astype(np.int32)
    result: Array = (weights - weight_zero_point.astype(np.int32)[:, None]).T
    return result


def _scaled(sums: Array, scale: Array, weight_scale: Array, bias: Array) -> Array:
    of_weights = sums.astype(np.float32) * weight_scale.astype(np.float32)
    wide: Array = of_weights * scale + bias.astype(np.float32)
    return wide.astype(weight_scale.dtype)
