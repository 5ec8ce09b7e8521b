"""Quantize a matrix by rounding to the nearest code, and turn codes back into weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from castline.compiler.quant.scheme import WeightScheme

Array = npt.NDArray[Any]


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

    Scales are rounded to `scale_type` before the codes are chosen, so that codes are nearest for the
    scales as stored. A group of zeros gets the scale 1. The symmetric scale is the smallest that
    reaches both ends, max(max / 7, -min / 8) for 4 bits, where AWQ takes max|w| / 7; the zero-point
    grid always holds 0, which AWQ's does not for a group of one sign.
    """
    k, n = weights.shape
    group = scheme.group_for(k) or k
    grouped = weights.astype(np.float32, copy=False).reshape(k // group, group, n)
    low, high = grouped.min(axis=1), grouped.max(axis=1)
    least, most = scheme.code_range
    if scheme.symmetric:
        scales = np.maximum(np.maximum(high, 0) / most, np.minimum(low, 0) / least)
    else:
        scales = (np.maximum(high, 0) - np.minimum(low, 0)) / most
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
    """Round scales to the type they are kept in; what rounds to zero becomes the smallest normal."""
    smallest = np.float32(np.finfo(np.float16).tiny if scale_type == np.float16 else 2.0**-126)
    kept = np.where(scales > 0, np.maximum(scales, smallest), np.float32(1))
    return kept.astype(scale_type)


def dequantize(matrix: QuantizedMatrix) -> Array:
    """Return the weights [K, N] in float32 that the codes stand for: (code - zero) * scale."""
    k, n = matrix.codes.shape
    codes = matrix.codes.reshape(-1, matrix.group, n).astype(np.float32)
    if matrix.zero_points is not None:
        codes -= matrix.zero_points[:, None, :].astype(np.float32)
    codes *= matrix.scales[:, None, :].astype(np.float32)
    return codes.reshape(k, n)
