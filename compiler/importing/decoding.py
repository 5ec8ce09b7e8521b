"""Decode the codes that a graph holds, in the layout of each operator, to weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from castline.compiler.quant.arrays import Array
from castline.compiler.quant.round_to_nearest import QuantizedMatrix, dequantize
from castline.plugins.packing import packed_shape, unpack, unpack_scales


def weights_of(
    codes: Array, scales: Array, zero_points: Array | None = None, offsets: Array | None = None
) -> Array:
    """Return float32 [K, N] from what DequantizeLinear has of a matrix: codes [K, N].

    Scales are [G, N], [N] or []; zero-points and offsets likewise.
    """
    zeros = None if zero_points is None else np.atleast_2d(zero_points)
    added = None if offsets is None else np.atleast_2d(offsets)
    return dequantize(QuantizedMatrix(codes, np.atleast_2d(scales), zeros, added))


def weights_of_packed(codes: Array, scales: Array, zero_points: Array | None, bits: int) -> Array:
    """Return float32 [K, N] from what MatMulNBits and QMoE have of a matrix.

    Codes are uint8 [N, K * bits / 8] in one or more axes after the first, two 4-bit codes a byte,
    the even one of K in the low half; scales [N, G] or [N * G]; zero-points [N, G * bits / 8],
    padded, or None where the middle code is zero.
    """
    n = len(codes)
    rows = _unpacked(codes.reshape(n, -1), bits)
    by_rows = scales.reshape(n, -1)
    groups = by_rows.shape[1]
    zeros = np.full((n, groups), 1 << (bits - 1), np.uint8)
    if zero_points is not None:
        zeros = _unpacked(zero_points.reshape(n, -1), bits)[:, :groups]
    return weights_of(rows.T, by_rows.T, zeros.T)


def weights_of_plugin(n: int, k: int, parts: Mapping[str, Array]) -> Array:
    """Return float32 [K, N] from the inputs of a packed op that are of its weight, by their names.

    They are `packed` and either `scales` with `zero_points` or `offsets`, in the packed layout, or
    `weight_scale` [N] with perhaps `weight_zero_point` [N].
    """
    packed = parts["packed"]
    bits = 4 if packed.shape == packed_shape(n, k, 4) else 8
    codes = unpack(packed, n, k, bits).T
    if "weight_scale" in parts:
        return weights_of(codes, parts["weight_scale"], parts.get("weight_zero_point"))
    by_group = {name: unpack_scales(parts[name], n).T for name in parts if name != "packed"}
    return weights_of(
        codes, by_group["scales"], by_group.get("zero_points"), by_group.get("offsets")
    )


def _unpacked(packed: Array, bits: int) -> Array:
    if bits == 8:
        return packed
    halves = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)
    return halves.reshape(len(packed), -1)
