"""Lay a grid of codes over ranges of weights, and round weights to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from castline.compiler.quant.arrays import Array
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.quant.two_level import in_units, unit_of

# The least normal float32: division by less may be flushed to division by zero. In float16 it
# becomes the least number there is, 2**-24.
LEAST_SCALE = np.float32(2.0**-126)


@dataclass(frozen=True, eq=False)
class WeightGrid:
    """What turns codes into weights, (code - zero) * scale, for groups [G, group, N] of weights."""

    scales: Array
    """[G, 1, N], or [1, 1, 1] where all weights share one; above zero, as they are stored."""
    zero_points: Array | None
    """float32 whole numbers in the shape of the scales; None on a symmetric grid."""
    code_range: tuple[int, int]
    """Smallest and largest code."""

    def codes(self, weights: Array) -> Array:
        """Return the nearest codes, float32 [G, group, N]; beyond the grid, the last code."""
        codes = weights / self.scales.astype(np.float32)
        np.rint(codes, out=codes)
        if self.zero_points is not None:
            codes += self.zero_points
        return np.clip(codes, *self.code_range, out=codes)

    def weights(self, codes: Array) -> Array:
        """Return the weights float32 [G, group, N] that `codes` stand for."""
        if self.zero_points is None:
            return codes.astype(np.float32) * self.scales.astype(np.float32)
        weights = codes.astype(np.float32) - self.zero_points
        weights *= self.scales.astype(np.float32)
        return weights


def channel_unit(grouped: Array, scheme: WeightScheme) -> Array | None:
    """Return the unit of the scales of each channel [1, 1, N]; None where they have one level.

    `grouped` [G, group, N] are float32 weights. Whole ranges decide, whatever is clipped later.
    """
    if not scheme.in_two_levels(grouped.shape[0] * grouped.shape[1]):
        return None
    low, high = grouped.min(axis=1, keepdims=True), grouped.max(axis=1, keepdims=True)
    return unit_of(_symmetric_scales(low, high, scheme))


def weight_grid(
    low: Array,
    high: Array,
    scheme: WeightScheme,
    scale_type: npt.DTypeLike,
    unit: Array | None = None,
) -> WeightGrid:
    """Return the grid that reaches from `low` to `high`, float32 of one shape, and holds 0.

    The symmetric scale is the smallest that reaches both ends, max(high / 7, -low / 8) for 4 bits,
    where AWQ takes max|w| / 7; the zero-point grid always holds 0, which AWQ's does not for a group
    of one sign. A group of zeros gets the scale 1. Scales are rounded up to `scale_type`, so that
    as stored they still reach both ends. With the `unit` of each channel they are the nearest in
    units, float32, which may clip: they are stored as integers.
    """
    least, most = scheme.code_range
    if scheme.symmetric:
        scales = _symmetric_scales(low, high, scheme)
        if unit is not None:
            return WeightGrid(in_units(scales, unit), None, (least, most))
        return WeightGrid(_stored(scales, scale_type), None, (least, most))
    # Divided first: the difference of the largest and the least float32 is infinite.
    scales = _stored(np.maximum(high, 0) / most - np.minimum(low, 0) / most, scale_type)
    steps = scales.astype(np.float32)
    zero_points = np.clip(np.rint(-np.minimum(low, 0) / steps), least, most)
    return WeightGrid(scales, zero_points, (least, most))


def _symmetric_scales(low: Array, high: Array, scheme: WeightScheme) -> Array:
    least, most = scheme.code_range
    scales: Array = np.maximum(np.maximum(high, 0) / most, np.minimum(low, 0) / least)
    return scales


def _stored(scales: Array, scale_type: npt.DTypeLike) -> Array:
    """Round scales up to the type they are kept in; 0, that of a group of zeros, becomes 1."""
    wanted = np.where(scales > 0, np.maximum(scales, LEAST_SCALE), np.float32(1))
    kept = wanted.astype(scale_type)
    with np.errstate(over="ignore"):  # of the largest number there is; it is not below, and stays
        above = np.nextafter(kept, np.asarray(np.inf, scale_type))
    return np.where(kept.astype(np.float32) < wanted, above, kept)
