"""Quantize a matrix by rounding to the nearest code, and turn codes back into weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from castline.compiler.quant.arrays import Array
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.quant.weight_grid import channel_unit, weight_grid
from castline.compiler.quant.weight_ranges import weight_range


@dataclass(frozen=True, eq=False)
class QuantizedMatrix:
    """Codes with the scales, and perhaps zero-points, that turn them into weights."""

    codes: Array
    """[K, N], int8 when symmetric, uint8 otherwise."""
    scales: Array
    """[K / group, N], [1, N] per channel or [1, 1] per tensor; above zero, in the type that they
    are stored in."""
    zero_points: Array | None
    """uint8 in the shape of the scales, or None when the grid is symmetric."""
    offsets: Array | None = None
    """Float in the shape of the scales, added to the weights that the codes stand for."""

    @property
    def group(self) -> int:
        """Neighbours along K that share one scale."""
        return int(self.codes.shape[0] // self.scales.shape[0])


def quantize(
    weights: Array, scheme: WeightScheme, scale_type: npt.DTypeLike = np.float32
) -> QuantizedMatrix:
    """Return the codes of `weights` [K, N], with the group that `scheme` gives this K.

    Every weight is finite, and within half a scale of what its code stands for unless the scheme's
    range clips it, or the scale, the nearest in units where there are two levels. Codes are nearest
    for the scales as stored: in `scale_type`, or of two levels float32. `weight_grid` says how they
    follow from the ends of the range.
    """
    k, n = weights.shape
    group = scheme.group_for(k)
    width = group if isinstance(group, int) else k
    grouped = weights.astype(np.float32, copy=False).reshape(k // width, width, n)
    unit = channel_unit(grouped, scheme)
    low, high = weight_range(grouped, scheme, scale_type, unit)
    grid = weight_grid(low, high, scheme, scale_type, unit)
    code_type = np.int8 if scheme.symmetric else np.uint8
    zeros = None if grid.zero_points is None else grid.zero_points[:, 0].astype(np.uint8)
    codes = grid.codes(grouped).reshape(k, n).astype(code_type)
    return QuantizedMatrix(codes, grid.scales[:, 0], zeros)


def dequantize(matrix: QuantizedMatrix) -> Array:
    """Return the weights [K, N] in float32 that the codes stand for.

    That is (code - zero) * scale + offset.
    """
    k, n = matrix.codes.shape
    codes = matrix.codes.reshape(-1, matrix.group, n).astype(np.float32)
    if matrix.zero_points is not None:
        codes -= matrix.zero_points[:, None, :].astype(np.float32)
    codes *= matrix.scales[:, None, :].astype(np.float32)
    if matrix.offsets is not None:
        codes += matrix.offsets[:, None, :].astype(np.float32)
    return codes.reshape(k, n)
