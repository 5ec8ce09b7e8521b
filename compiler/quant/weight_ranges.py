"""Choose the range of weights that codes span: all of it, or less where that costs less."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from castline.compiler.quant.arrays import Array
from castline.compiler.quant.histogram import Histogram
from castline.compiler.quant.ranges import best_range
from castline.compiler.quant.scheme import ActivationScheme, WeightScheme
from castline.compiler.quant.weight_grid import WeightGrid, weight_grid

_FINE = tuple(step / 40 for step in range(40, 15, -1))
_COARSE = tuple(0.4 * 2 ** (-step / 4) for step in range(1, 17))

_AT_ONCE = 1 << 20  # weights that all factors are tried on together: they stay in the cache


def weight_range(
    grouped: Array,
    scheme: WeightScheme,
    scale_type: npt.DTypeLike = np.float32,
    unit: Array | None = None,
) -> tuple[Array, Array]:
    """Return both ends of the range of each scale, float32 [G, 1, N] or, per tensor, [1, 1, 1].

    `grouped` [G, group, N] holds finite float32 weights. max: the least and the greatest weight.
    percentile: of |w| on a symmetric grid, of both tails with zero-points, within each group by
    linear interpolation. mse: the factor of the whole range whose squared error, with scales as
    stored in `scale_type` or in the `unit` of their channel, is least. entropy: the share of every
    scale's peak by which all weights, each relative to its own peak, diverge least; `best_range`
    gives the source.
    """
    axes = (0, 1, 2) if scheme.group_size == "per-tensor" else (1,)
    low = grouped.min(axis=axes, keepdims=True)
    high = grouped.max(axis=axes, keepdims=True)
    match scheme.range.method:
        case "percentile":
            return _percentile_range(grouped, scheme, low, high)
        case "mse":
            factors = _least_error_factors(grouped, scheme, low, high, scale_type, unit)
            return low * factors, high * factors
        case "entropy":
            peaks = np.maximum(high, -low)
            below, above = entropy_range(grouped / np.where(peaks > 0, peaks, 1), scheme)
            return np.maximum(low, below * peaks), np.minimum(high, above * peaks)
    return low, high


def shrink_factors(scheme: WeightScheme) -> tuple[float, ...]:
    """Return what mse tries, as shares of the whole range, the whole first.

    From 1 to 0.4, and where many weights share a scale, so that one of them may lie far out, on to
    a fortieth in steps of 16 %.
    """
    return _FINE if isinstance(scheme.group_size, int) else _FINE + _COARSE


def percentile_place(share: float, count: int) -> tuple[int, np.float32]:
    """Return between which of `count` sorted values a share of them ends: index and fraction."""
    place = share * (count - 1)
    index = min(math.floor(place), max(count - 2, 0))
    return index, np.float32(place - index)


def entropy_range(relative: Array, scheme: WeightScheme) -> tuple[np.float32, np.float32]:
    """Return the ends of the range of weights from -1 to 1 by which they diverge least."""
    histogram = Histogram()
    histogram.update(relative)
    values = ActivationScheme(
        scheme.bits, "per-tensor", dynamic=False, symmetric=scheme.symmetric, range=scheme.range
    )
    low, high = best_range(histogram, values)
    return np.float32(low), np.float32(high)


def _percentile_range(
    grouped: Array, scheme: WeightScheme, low: Array, high: Array
) -> tuple[Array, Array]:
    share = scheme.range.percentile / 100
    rows = grouped.reshape(1, -1, 1) if scheme.group_size == "per-tensor" else grouped
    if scheme.symmetric:
        reach = _quantile(np.abs(rows), share)
        return np.maximum(low, -reach), np.minimum(high, reach)
    tail = (1 - share) / 2
    return _quantile(rows, tail), _quantile(rows, 1 - tail)


def _quantile(rows: Array, share: float) -> Array:
    """Return [G, 1, N], what the share of each group [G, group, N] lies below."""
    index, fraction = percentile_place(share, rows.shape[1])
    after = min(index + 1, rows.shape[1] - 1)
    ordered = np.partition(rows, (index, after), axis=1)
    below, above = ordered[:, index : index + 1], ordered[:, after : after + 1]
    return np.asarray(below + (above - below) * fraction)


def _least_error_factors(
    grouped: Array,
    scheme: WeightScheme,
    low: Array,
    high: Array,
    scale_type: npt.DTypeLike,
    unit: Array | None,
) -> Array:
    """Return the best shrink factor of each scale, float32 in the shape of `low`."""
    best = np.ones_like(low)
    for columns in _columns(grouped, scheme):
        part, bottom, top = grouped[..., columns], low[..., columns], high[..., columns]
        step = None if unit is None else unit[..., columns]
        least = np.full(bottom.shape, np.inf)
        for factor in map(np.float32, shrink_factors(scheme)):
            grid = weight_grid(bottom * factor, top * factor, scheme, scale_type, step)
            error = _squared_error(part, grid)
            best[..., columns] = np.where(error < least, factor, best[..., columns])
            least = np.minimum(error, least)
    return best


def _columns(grouped: Array, scheme: WeightScheme) -> Iterator[slice]:
    """Yield runs along N that have scales of their own and are few enough to work on at once."""
    groups, width, n = grouped.shape
    step = n if scheme.group_size == "per-tensor" else max(1, _AT_ONCE // (groups * width))
    for start in range(0, n, step):
        yield slice(start, start + step)


def _squared_error(grouped: Array, grid: WeightGrid) -> Array:
    """Return the sum for each scale, float64: of two ranges, the better is to be told for sure."""
    apart = grid.weights(grid.codes(grouped))
    apart -= grouped
    np.square(apart, out=apart)
    axes = (0, 1, 2) if grid.scales.size == 1 else (1,)
    return np.asarray(apart.sum(axis=axes, keepdims=True, dtype=np.float64))
