"""Multiply by 4-bit codes in groups with offsets, such as zero-points: castline.LinearW4A16."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from castline.plugins.op import PluginOp

Array = NDArray[Any]

LINEAR_W4A16 = PluginOp(
    name="LinearW4A16",
    inputs=("x", "codes", "scales", "offsets"),
    outputs=("y",),
    attributes=("block_size",),
    body="""
        weights = DequantizeLinear <axis = -2, block_size: int = @block_size> (codes, scales)
        of_codes = MatMul (x, weights)

        one = Constant <value_ints = [1]> ()
        last = Constant <value_ints = [-1]> ()
        block = Constant <value_int: int = @block_size> ()
        width = Reshape (block, one)
        leading = Shape <start = 0, end = -1> (x)
        in_groups = Concat <axis = 0> (leading, last, width)
        wide = Cast <to = 1> (x)
        grouped = Reshape (wide, in_groups)
        group_sums = ReduceSum <keepdims = 0> (grouped, last)
        wide_offsets = Cast <to = 1> (offsets)
        of_offsets = MatMul (group_sums, wide_offsets)

        wide_of_codes = Cast <to = 1> (of_codes)
        sums = Add (wide_of_codes, of_offsets)
        y = CastLike (sums, x)
    """,
)


def linear_w4a16(x: Array, codes: Array, scales: Array, offsets: Array) -> Array:
    """Return y [..., N] = x @ (codes * scales + offsets), in the type of x.

    `x` is [..., K]; `codes` are signed, [K, N] or a stack [E, K, N]; `scales` and `offsets` are
    [G, N] or [E, G, N], one for each of the G groups of K / G neighbours along K. Scales have the
    type of x, offsets any float type. Computed in float32.
    """
    group = codes.shape[-2] // scales.shape[-2]
    each = np.repeat(scales.astype(np.float32), group, axis=-2)
    offset = np.repeat(offsets.astype(np.float32), group, axis=-2)
    y: Array = x.astype(np.float32) @ (codes.astype(np.float32) * each + offset)
    return y.astype(x.dtype)
