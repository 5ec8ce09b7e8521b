"""Quantize a matrix by rounding to the nearest code, and turn codes back into weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from castline.compiler.quant.arrays import Array
from castline.compiler.quant.scheme import WeightScheme

# The least normal float32: division by less may be flushed to division by zero. In float16 it
# becomes the least number there is, 2**-24.
_LEAST_SCALE = np.float32(2.0**-126)


@dataclass(frozen=True)
class QuantizedMatrix:
    """Codes with the scales, and perhaps zero-points, that turn them into weights."""

    codes: Array
    """[K, N], int8 when symmetric, uint8 otherwise."""
    scales: Array
    """[K / group, N], above zero, in the type that they are stored in."""
    zero_points: Array | None
    """[K / group, N] uint8, or None when the grid is symmetric."""

    @property
    def group(self) -> int:
        """Neighbours along K that share one scale."""
        return int(self.codes.shape[0] // self.scales.shape[0])


def quantize(
    weights: Array, scheme: WeightScheme, scale_type: npt.DTypeLike = np.float32
) -> QuantizedMatrix:
    """Return the codes of `weights` [K, N], with the group that `scheme` gives this K.

    Every weight is finite and within half a scale of what its code stands for. The symmetric scale
    is the smallest that reaches both ends, max(max / 7, -min / 8) for 4 bits, where AWQ takes
    max|w| / 7; the zero-point grid always holds 0, which AWQ's does not for a group of one sign. A
    group of zeros gets the scale 1. Scales are rounded up to `scale_type` before the codes are
    chosen: codes are nearest for the scales as stored, which still reach both ends.
    """
    k, n = weights.shape
    group = scheme.group_for(k) or k
    grouped = weights.astype(np.float32, copy=False).reshape(k // group, group, n)
    low, high = grouped.min(axis=1), grouped.max(axis=1)
    least, most = scheme.code_range
    if scheme.symmetric:
        scales = np.maximum(np.maximum(high, 0) / most, np.minimum(low, 0) / least)
    else:
        # Divided first: the difference of the largest and the least float32 is infinite.
        scales = np.maximum(high, 0) / most - np.minimum(low, 0) / most
    scales = _stored(scales, scale_type)
    steps = scales.astype(np.float32)
    codes = grouped / steps[:, None, :]
    np.rint(codes, out=codes)
    zeros = None
    if not scheme.symmetric:
        zero_points = np.clip(np.rint(-np.minimum(low, 0) / steps), least, most)
        codes += zero_points[:, None, :]
        zeros = zero_points.astype(np.uint8)
    np.clip(codes, least, most, out=codes)
    code_type = np.int8 if scheme.symmetric else np.uint8
    return QuantizedMatrix(codes.reshape(k, n).astype(code_type), scales, zeros)


def _stored(scales: Array, scale_type: npt.DTypeLike) -> Array:
    """Round scales up to the type they are kept in; 0, that of a group of zeros, becomes 1."""
    wanted = np.where(scales > 0, np.maximum(scales, _LEAST_SCALE), np.float32(1))
    kept = wanted.astype(scale_type)
    above = np.nextafter(kept, np.asarray(np.inf, scale_type))
    return np.where(kept.astype(np.float32) < wanted, above, kept)


def dequantize(matrix: QuantizedMatrix) -> Array:
    """Return the weights [K, N] in float32 that the codes stand for: (code - zero) * scale."""
    k, n = matrix.codes.shape
    codes = matrix.codes.reshape(-1, matrix.group, n).astype(np.float32)
    if matrix.zero_points is not None:
        codes -= matrix.zero_points[:, None, :].astype(np.float32)
    codes *= matrix.scales[:, None, :].astype(np.float32)
    return codes.reshape(k, n)
