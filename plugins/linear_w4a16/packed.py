"""Multiply by packed 4-bit codes in groups: castline.PackedLinearW4A16, ...W4A16Offsets."""

from __future__ import annotations

import numpy as np

from castline.plugins.linear_w4a16.op import Array
from castline.plugins.op import PluginOp
from castline.plugins.packing import unpack, unpack_scales
from castline.plugins.unpacking import WEIGHTS, of_groups

_ATTRIBUTES = ("k", "n", "block_size", "layout_version")
_DEQUANTIZED = "DequantizeLinear <axis = 0, block_size: int = @block_size>"
_CODES = f"{WEIGHTS[4]}{of_groups('scales')}"

PACKED_LINEAR_W4A16 = PluginOp(
    name="PackedLinearW4A16",
    inputs=("x", "packed", "scales", "zero_points", "bias"),
    outputs=("y",),
    attributes=_ATTRIBUTES,
    body=f"""{_CODES}{of_groups("zero_points")}
        zeros = Cast <to = 22> (zero_points_of_groups)
        weights = {_DEQUANTIZED} (weight_codes, scales_of_groups, zeros)
        product = MatMul (x, weights)
        y = Add (product, bias)
    """,
)

PACKED_LINEAR_W4A16_OFFSETS = PluginOp(
    name="PackedLinearW4A16Offsets",
    inputs=("x", "packed", "scales", "offsets", "bias"),
    outputs=("y",),
    attributes=_ATTRIBUTES,
    body=f"""{_CODES}{of_groups("offsets")}
        weights = {_DEQUANTIZED} (weight_codes, scales_of_groups)
        of_codes = MatMul (x, weights)

        block = Constant <value_int: int = @block_size> ()
        width = Reshape (block, vector)
        leading = Shape <start = 0, end = -1> (x)
        in_groups = Concat <axis = 0> (leading, rest_of_it, width)
        wide = Cast <to = 1> (x)
        grouped = Reshape (wide, in_groups)
        group_sums = ReduceSum <keepdims = 0> (grouped, rest_of_it)
        of_offsets = MatMul (group_sums, offsets_of_groups)

        wide_of_codes = Cast <to = 1> (of_codes)
        sums = Add (wide_of_codes, of_offsets)
        wide_bias = Cast <to = 1> (bias)
        wide_y = Add (sums, wide_bias)
        y = CastLike (wide_y, x)
    """,
)


def packed_linear_w4a16(
    x: Array, packed: Array, scales: Array, zero_points: Array, bias: Array
) -> Array:
    """Return y [..., N] = x @ ((codes - zero_points) * scales) + bias, in the type of x.

    `x` is [..., K]; `packed` is what `pack` makes of codes [N, K], `scales` and `zero_points` what
    `pack_scales` makes of [N, G]; zero-points are int8, -8 to 7; `bias` is [N]. Computed in
    float32, rounded once.
    """
    steps = unpack_scales(scales, len(bias)).astype(np.float32)
    offsets = -unpack_scales(zero_points, len(bias)).astype(np.float32) * steps
    return _linear(x, packed, steps, offsets, bias)


def packed_linear_w4a16_offsets(
    x: Array, packed: Array, scales: Array, offsets: Array, bias: Array
) -> Array:
    """Return y [..., N] = x @ (codes * scales + offsets) + bias; `offsets` are float32."""
    steps = unpack_scales(scales, len(bias)).astype(np.float32)
    return _linear(x, packed, steps, unpack_scales(offsets, len(bias)), bias)


def _linear(x: Array, packed: Array, steps: Array, offsets: Array, bias: Array) -> Array:
    """Multiply by codes * steps + offsets, both [N, G], in float32."""
    n, k = len(bias), x.shape[-1]
    group = k // steps.shape[1]
    codes = unpack(packed, n, k, 4).astype(np.float32)
    weights = codes * steps.repeat(group, axis=1) + offsets.repeat(group, axis=1)
    y: Array = x.astype(np.float32) @ weights.T + bias.astype(np.float32)
    return y.astype(x.dtype)
