"""Narrow the range of each group of weights where that costs its part of the output less."""

from __future__ import annotations

from typing import TypeAlias

import torch

from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.scaling import Clipping
from castline.compiler.search.fake_grids import FakeGrid, channel_unit, ends, weight_grid

Tensor: TypeAlias = torch.Tensor

_WEIGHTS_AT_ONCE = 1 << 18  # in whole rows: what is tried takes ten copies


def clipped_grid(
    groups: Tensor, second: Tensor, scheme: WeightScheme, clipping: Clipping
) -> tuple[FakeGrid, Tensor]:
    """Return the grid of the best of the ranges that are tried for each group, and their errors.

    `groups` [N, G, group] are a matrix's weights, `second` [K, K] is the sum of x^T x over what it
    read. For the largest absolute weight m of a group the ranges are m (1 - i / steps), i from 0
    while the cut is below `shrink`. The error of a group, [N, G], is the sum over all rows of
    (sum over the group of x (Q(w) - w))^2, so the others' errors do not count. The whole range is
    among the candidates and wins a tie.

    Source: Lin et al., AWQ, arXiv:2306.00978, section 4, and the authors' code. Differs: every row
    that was read counts, where the code takes 512; the ends of a range with zero-points that are
    nearer to zero than m stay where they are.
    """
    blocks = diagonal_blocks(second, groups.shape[1])
    parts = groups.tensor_split(-(-groups.numel() // _WEIGHTS_AT_ONCE))
    found = [_best(part, blocks, scheme, clipping) for part in parts]
    return FakeGrid.joined([grid for grid, _ in found]), torch.cat([error for _, error in found])


def _best(
    groups: Tensor, blocks: Tensor, scheme: WeightScheme, clipping: Clipping
) -> tuple[FakeGrid, Tensor]:
    low, high = ends(groups)
    unit = channel_unit(groups, scheme)
    best, least = _tried(groups, blocks, weight_grid(low, high, scheme, unit))
    for step in range(1, max(1, round(clipping.shrink * clipping.steps))):
        reach = torch.maximum(high, -low) * (1 - step / clipping.steps)
        bottom, top = torch.maximum(low, -reach), torch.minimum(high, reach)
        grid, error = _tried(groups, blocks, weight_grid(bottom, top, scheme, unit))
        better = error < least
        best = best.where(better[..., None], grid)
        least = torch.where(better, error, least)
    return best, least


def diagonal_blocks(second: Tensor, groups: int) -> Tensor:
    """Return the blocks [G, group, group] on the diagonal of `second` [K, K]."""
    width = len(second) // groups
    parts = second.reshape(groups, width, groups, width)
    return torch.stack([parts[index, :, index] for index in range(groups)])


def group_errors(apart: Tensor, blocks: Tensor) -> Tensor:
    """Return sum (x e)^2 [N, G] for weights that are off by `apart` [N, G, group]."""
    by_group = apart.transpose(0, 1)
    return torch.bmm(by_group, blocks).mul_(by_group).sum(dim=-1).T


def _tried(groups: Tensor, blocks: Tensor, grid: FakeGrid) -> tuple[FakeGrid, Tensor]:
    return grid, group_errors(grid.rounded(groups).sub_(groups), blocks)
