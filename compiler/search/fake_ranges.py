"""Choose the range of weights in torch, as the arithmetic does."""

from __future__ import annotations

import torch

from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.quant.weight_ranges import (
    entropy_range,
    percentile_place,
    shrink_factors,
)
from castline.compiler.search.fake_grids import FakeGrid, Tensor, ends, weight_grid

_AT_ONCE = {"cpu": 1 << 20}  # weights that all factors are tried on together: they stay in cache
_AT_ONCE_ELSEWHERE = 1 << 24


def weight_range(
    rows: Tensor, scheme: WeightScheme, unit: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return both ends of the range of each row of `rows`, float32 [S, 1].

    `rows` [S, weights] are the weights that share a scale, float32; `unit` [S, 1] is that of scales
    of two levels, None for others. The numbers are those of
    `castline.compiler.quant.weight_ranges` for scales of float32.
    """
    low, high = ends(rows)
    match scheme.range.method:
        case "percentile":
            return _percentile_range(rows, scheme, low, high)
        case "mse":
            factors = _least_error_factors(rows, scheme, low, high, unit)
            return low * factors, high * factors
        case "entropy":
            return _entropy_range(rows, scheme, low, high)
    return low, high


def _percentile_range(
    rows: Tensor, scheme: WeightScheme, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    share = scheme.range.percentile / 100
    if scheme.symmetric:
        reach = _quantile(rows.abs(), share)
        return torch.maximum(low, -reach), torch.minimum(high, reach)
    tail = (1 - share) / 2
    return _quantile(rows, tail), _quantile(rows, 1 - tail)


def _quantile(rows: Tensor, share: float) -> Tensor:
    """Return [S, 1]; torch.quantile takes no more than 16 million values."""
    count = rows.shape[1]
    index, fraction = percentile_place(share, count)
    below = torch.kthvalue(rows, index + 1, dim=1, keepdim=True).values
    above = torch.kthvalue(rows, min(index + 2, count), dim=1, keepdim=True).values
    return below + (above - below) * float(fraction)


def _least_error_factors(
    rows: Tensor, scheme: WeightScheme, low: Tensor, high: Tensor, unit: Tensor | None
) -> Tensor:
    """Return the best shrink factor of each row, float32 [S, 1]."""
    together = max(1, _AT_ONCE.get(rows.device.type, _AT_ONCE_ELSEWHERE) // rows.shape[1])
    best = torch.ones_like(low)
    parts = [tensor.split(together) for tensor in (rows, low, high, best)]
    units = [None] * len(parts[0]) if unit is None else unit.split(together)
    for part, bottom, top, chosen, step in zip(*parts, units, strict=True):
        least = torch.full_like(bottom, torch.inf, dtype=torch.float64)
        for factor in shrink_factors(scheme):
            grid = weight_grid(bottom * factor, top * factor, scheme, step)
            error = _squared_error(part, grid)
            chosen.masked_fill_(error < least, factor)
            least = torch.minimum(error, least)
    return best


def _squared_error(rows: Tensor, grid: FakeGrid) -> Tensor:
    """Return the sum of each row, float64: of two ranges, the better is to be told for sure."""
    return grid.rounded(rows).sub_(rows).square_().sum(dim=1, keepdim=True, dtype=torch.float64)


def _entropy_range(
    rows: Tensor, scheme: WeightScheme, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the ends by histograms that numpy counts, one for each matrix."""
    peak = torch.maximum(high, -low)
    relative = rows / torch.where(peak > 0, peak, 1.0)
    below, above = map(float, entropy_range(relative.cpu().numpy(), scheme))
    return torch.maximum(low, below * peak), torch.minimum(high, above * peak)
