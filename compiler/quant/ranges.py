"""Choose the range that codes span from a histogram: all of it, or less where that costs less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

from castline.compiler.quant.activations import activation_grid
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.histogram import BINS, Histogram
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters

_SHARES = tuple(2 ** (-step / 16) for step in range(128))  # of an end: 4 % steps down to 1/256

Range: TypeAlias = tuple[float, float]


def activation_parameters(histogram: Histogram, scheme: ActivationScheme) -> QuantParameters:
    """Return scale and zero-point for values that are distributed as `histogram` has it.

    The scale is a float32; that of values that are all zero is 1.
    """
    return _parameters(best_range(histogram, scheme), scheme)


def best_range(histogram: Histogram, scheme: ActivationScheme) -> Range:
    """Return the ends of the range that `scheme.range` chooses; both are 0 or beyond it.

    max: the least and the greatest value. percentile: the shares of the values that lie beyond are
    equal at both ends with zero-points, and those of |x| on a symmetric grid. mse: the squared
    error is least. entropy: the Kullback-Leibler divergence is least, as in S. Migacz, "8-bit
    inference with TensorRT", GTC 2017; differs: bins belong to the code that they round to, not to
    equal runs of bins, and codes of a zero-point grid have a range of two ends.

    mse and entropy try shares of each end in steps of 4 %, with zero-points one end after the
    other, and none with codes finer than the bins of the histogram, which could not be told apart.
    """
    low, high = histogram.low, histogram.high
    method = scheme.range.method
    if method == "max" or not histogram.peak:
        return low, high
    values = _BinnedValues.of(histogram, scheme.symmetric)
    if method == "percentile":
        return _percentile_range(values, scheme.range.percentile / 100, scheme.symmetric)
    measure = _squared_error if method == "mse" else _divergence
    return _least_cost(values, scheme, lambda low, high: measure(values, low, high, scheme))


@dataclass(frozen=True, eq=False)
class _BinnedValues:
    """Bins that hold something, in ascending order; of |x| where the grid is symmetric."""

    starts: Array
    """float64: where each bin starts."""
    counts: Array
    """float64: how many values it holds."""
    width: float
    low: float
    high: float

    @classmethod
    def of(cls, histogram: Histogram, symmetric: bool) -> _BinnedValues:
        counts, first = histogram.counts, -BINS // 2
        low, high = histogram.low, histogram.high
        if symmetric:
            counts, first = counts[BINS // 2 :] + counts[BINS // 2 - 1 :: -1], 0
            low, high = 0.0, histogram.peak
        (held,) = np.nonzero(counts)
        starts = (held + first) * histogram.width
        return cls(starts, counts[held].astype(np.float64), histogram.width, low, high)

    @cached_property
    def centres(self) -> Array:
        """float64: what stands for the values of each bin."""
        return np.clip(self.starts + self.width / 2, self.low, self.high)

    @cached_property
    def without_zero(self) -> _BinnedValues:
        """The same without the bins next to zero."""
        apart = (self.starts >= self.width) | (self.starts < -self.width)
        return replace(self, starts=self.starts[apart], counts=self.counts[apart])


def _percentile_range(values: _BinnedValues, share: float, symmetric: bool) -> Range:
    if symmetric:
        reach = _quantile(values, share)
        return -reach, reach
    tail = (1 - share) / 2
    return min(_quantile(values, tail), 0.0), max(_quantile(values, 1 - tail), 0.0)


def _quantile(values: _BinnedValues, share: float) -> float:
    """Return below what the share of the values lies, by linear interpolation within a bin."""
    below = np.cumsum(values.counts)
    wanted = share * below[-1]
    bin_ = min(int(np.searchsorted(below, wanted)), len(below) - 1)
    into = 1 - (below[bin_] - wanted) / values.counts[bin_]
    end = float(values.starts[bin_] + into * values.width)
    return min(max(end, values.low), values.high)


def _least_cost(
    values: _BinnedValues, scheme: ActivationScheme, cost: Callable[[float, float], float]
) -> Range:
    least, most = scheme.code_range
    if scheme.symmetric:
        reaches = _shares(values.high, most * values.width)
        reach = min(reaches, key=lambda reach: cost(-reach, reach))
        return -reach, reach
    span = (most - least) * values.width
    low, high = values.low, values.high
    for _ in range(2):
        high = min(_shares(high, span + low), key=lambda high: cost(low, high))
        low = -min(_shares(-low, span - high), key=lambda reach: cost(-reach, high))
    return low, high


def _shares(end: float, least: float) -> tuple[float, ...]:
    """Return what to try for an end: the end itself, and shares of it not below `least`."""
    tried = _SHARES[1:] if end > 0 else ()
    return (end, *(share * end for share in tried if share * end >= least))


def _squared_error(
    values: _BinnedValues, low: float, high: float, scheme: ActivationScheme
) -> float:
    centres = values.centres
    grid = _parameters((low, high), scheme)
    rounded = (_codes(centres, grid, scheme) - grid.zero_point) * grid.scale
    return float(values.counts @ np.square(rounded - centres))


def _divergence(values: _BinnedValues, low: float, high: float, scheme: ActivationScheme) -> float:
    """Return the divergence of the clipped values from what their codes tell of them.

    What is clipped is added to the last bins of the one and is missing from the other: that is the
    price of clipping. Zero is on every grid and tells nothing. A range that clips half of the rest
    is not one: of a single bin the codes would tell all.
    """
    told_apart = values.without_zero
    centres, counts = told_apart.centres, told_apart.counts
    first, end = np.searchsorted(centres, low), np.searchsorted(centres, high, side="right")
    inside = counts[first:end]
    if 2 * inside.sum() <= counts.sum():
        return float("inf")
    clipped = inside.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[end:].sum()
    codes = _codes(centres[first:end], _parameters((low, high), scheme), scheme)
    places = (codes - scheme.code_range[0]).astype(np.intp)
    told = (np.bincount(places, inside) / np.maximum(np.bincount(places), 1))[places]
    p, q = clipped / clipped.sum(), told / told.sum()
    return float(p @ np.log(p / q))


def _parameters(ends: Range, scheme: ActivationScheme) -> QuantParameters:
    low, high = (np.asarray(end, np.float32) for end in ends)
    scale, zero_point = activation_grid(low, high, scheme)
    return QuantParameters(float(scale), int(zero_point))


def _codes(numbers: Array, grid: QuantParameters, scheme: ActivationScheme) -> Array:
    codes = np.rint(numbers / grid.scale) + grid.zero_point
    return np.clip(codes, *scheme.code_range, out=codes)
