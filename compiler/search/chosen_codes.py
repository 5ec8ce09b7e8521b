"""Choose the codes of a folded linear by what it read: its ranges, then each code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch

from castline.compiler.quant.round_to_nearest import QuantizedMatrix
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.recipes.scaling import Clipping
from castline.compiler.search.clipping import clipped_grid
from castline.compiler.search.compensation import compensated
from castline.compiler.search.fake_grids import FakeGrid, channel_unit, weight_grid
from castline.compiler.search.fake_ranges import weight_range

Tensor: TypeAlias = torch.Tensor

_WEIGHTS_AT_ONCE = 1 << 20  # in whole rows, which are chosen apart: it takes several copies
_SCALE_BITS = 11  # significant bits of a scale: those of float16, so that no target rounds it again


@dataclass(frozen=True, eq=False)
class ChosenCodes:
    """The codes of one matrix."""

    steps: Tensor
    """Codes less zero-points, float32 [N, G, group]."""
    grid: FakeGrid
    """Its scales and zero-points are [N, G, 1]."""
    clipped: float | None
    """Share of the groups whose range was narrowed; None: none was searched."""

    @property
    def weight(self) -> Tensor:
        """What the codes stand for, float32 [N, K]."""
        return (self.steps * self.grid.scale).reshape(len(self.steps), -1)

    @property
    def matrix(self) -> QuantizedMatrix:
        """The same as it is stored."""
        zero = self.grid.zero_point
        code_type = np.int8 if zero is None else np.uint8
        codes = self.steps if zero is None else self.steps + zero
        n = len(codes)
        return QuantizedMatrix(
            _array(codes.reshape(n, -1).T, code_type),
            _array(self.grid.scale[..., 0].T, np.float32),
            None if zero is None else _array(zero[..., 0].T, np.uint8),
        )


def choose_codes(
    name: str, weight: Tensor, second: Tensor | None, recipe: Recipe, scheme: WeightScheme
) -> ChosenCodes:
    """Return the codes of a folded weight [N, K] whose linear is called `name`.

    `second` [K, K] is the sum of x^T x over what it is expected to read once the scales are folded;
    None where no token of the text reached it: the codes are then the nearest.
    """
    n, k = weight.shape
    group = scheme.group_for(k)
    groups = weight.reshape(n, -1, group if isinstance(group, int) else k)
    leaf = name.removesuffix(".weight").rpartition(".")[2]
    clipping = None if recipe.clipping is None or leaf in recipe.clipping.leave else recipe.clipping
    compensating = recipe.rounding == "compensated"
    parts = [
        _chosen(part, second, scheme, clipping, compensating=compensating)
        for part in groups.tensor_split(-(-groups.numel() // _WEIGHTS_AT_ONCE))
    ]
    return _joined(parts)


def _chosen(
    groups: Tensor,
    second: Tensor | None,
    scheme: WeightScheme,
    clipping: Clipping | None,
    *,
    compensating: bool,
) -> ChosenCodes:
    """Return the codes of some rows of a matrix, [N, G, group]."""
    whole = _grid(groups, scheme)
    grid, clipped = whole, None
    if second is not None and clipping is not None:
        grid, _ = clipped_grid(groups, second, scheme, clipping)
        clipped = float((grid.scale < whole.scale).float().mean())
    if second is not None and compensating:
        grid, steps = compensated(groups, second, grid)
        return ChosenCodes(steps, _stored(grid), clipped)
    grid = _stored(grid)
    return ChosenCodes(grid.steps(groups), grid, clipped)


def _joined(parts: list[ChosenCodes]) -> ChosenCodes:
    """Return the codes of a matrix, given those of its rows in order."""
    shares = [(part.clipped, len(part.steps)) for part in parts if part.clipped is not None]
    rows = sum(count for _, count in shares)
    return ChosenCodes(
        torch.cat([part.steps for part in parts]),
        FakeGrid.joined([part.grid for part in parts]),
        sum(share * count for share, count in shares) / rows if shares else None,
    )


def _grid(groups: Tensor, scheme: WeightScheme) -> FakeGrid:
    rows = groups.reshape(-1, groups.shape[-1])
    unit = channel_unit(groups, scheme)
    low, high = weight_range(rows, scheme, None if unit is None else unit.reshape(-1, 1))
    shape = (*groups.shape[:2], 1)
    return weight_grid(low.reshape(shape), high.reshape(shape), scheme, unit)


def _stored(grid: FakeGrid) -> FakeGrid:
    """Return the grid with its scales rounded to as many bits as every target keeps."""
    mantissa, exponent = torch.frexp(grid.scale)
    rounded = torch.ldexp((mantissa * 2**_SCALE_BITS).round_(), exponent - _SCALE_BITS)
    return replace(grid, scale=rounded)


def _array(values: Tensor, dtype: type) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    return np.ascontiguousarray(values.cpu().numpy().astype(dtype))
