"""Choose codes so that each makes up for what the rounding of the others did to the output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

import torch

from castline.compiler.search.fake_grids import FakeGrid, in_units

Tensor: TypeAlias = torch.Tensor

SWEEPS = 2
"""Times that all codes and scales are gone through; a third gains 2 % of the error."""

_COLUMNS = 64  # codes along K that are chosen before the rest hears of it, in one product


def compensated(
    groups: Tensor, second: Tensor, grid: FakeGrid, sweeps: int = SWEEPS
) -> tuple[FakeGrid, Tensor]:
    """Return a grid with refined scales, and the codes less zero-points [N, G, group], float32.

    `groups` [N, G, group] are a matrix's weights, `second` [K, K] is the sum of x^T x over what it
    read, `grid` has scales [N, G, 1]. Coordinate descent on sum |x (Q - W)^T|^2, group after group:
    every code in turn becomes the best one for all others as they are, then the group's scale the
    least-squares one for its codes, or of two levels the nearest to it in units; zero-points stay.
    No step makes the error larger, so it is at most that of rounding to nearest on `grid`.

    Source: Behdin et al., QuantEase, arXiv:2309.01885, for the codes; that scales follow their
    codes is ours.
    """
    n, count, width = groups.shape
    codes = grid.steps(groups).reshape(n, -1).T.contiguous()
    zero = torch.zeros_like(grid.scale) if grid.zero_point is None else grid.zero_point
    least, most = (limit - zero for limit in grid.code_range)
    scale = grid.scale[..., 0].T.contiguous()  # [G, N], as are the limits and the units
    unit = None if grid.unit is None else grid.unit[..., 0].T
    lowest, highest = least[..., 0].T.contiguous(), most[..., 0].T.contiguous()
    apart = (codes.reshape(count, width, n) * scale[:, None]).reshape(-1, n)
    # How the squared error grows with each weight; kept up to date by every group.
    pull = second @ apart.sub_(groups.reshape(n, -1).T)
    del apart
    for group in [*range(count)] * sweeps:
        at = slice(group * width, (group + 1) * width)
        own, step, within = codes[at], scale[group], second[at, at]
        before = own * step
        near = pull[at].clone()
        with _one_thread():
            _choose_codes(own, near, within, step, (lowest[group], highest[group]))
        fitted = _fitted(own, near, within, step)
        fitted = fitted if unit is None else in_units(fitted, unit[group])
        pull.addmm_(second[:, at], (own * fitted).sub_(before))
        scale[group] = fitted
    grid = replace(grid, scale=scale.T[..., None].contiguous())
    return grid, codes.T.reshape(n, count, width).contiguous()


def _choose_codes(
    codes: Tensor, pull: Tensor, second: Tensor, scale: Tensor, limits: tuple[Tensor, Tensor]
) -> None:
    """Go once through the codes [group, N] of a group with scales [N].

    `pull` = second @ error [group, N] is kept up to date.
    """
    lowest, highest = limits
    curvature, each = second.diagonal().tolist(), 1 / scale
    for begin in range(0, len(codes), _COLUMNS):
        end = min(begin + _COLUMNS, len(codes))
        near = second[begin:end, begin:end]
        moved = torch.zeros_like(codes[begin:end])
        rows = zip(codes[begin:end], pull[begin:end], moved, strict=True)
        for place, (code, pulled, move) in enumerate(rows):
            if curvature[begin + place] <= 0:
                continue
            now = torch.addmv(pulled, moved[:place].T, near[place, :place])
            best = torch.addcmul(code, now, each, value=-1 / curvature[begin + place]).round_()
            best = torch.minimum(torch.maximum(best, lowest), highest)
            torch.sub(best, code, out=move)
            move.mul_(scale)
            code.copy_(best)
        pull.addmm_(second[:, begin:end], moved)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one CPU thread: many small steps wait for each other longer than they take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fitted(codes: Tensor, pull: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """Return the least-squares scales [N] for the codes [group, N], in memory of their own."""
    curvature = (codes * (second @ codes)).sum(dim=0)
    change = (codes * pull).sum(dim=0) / -curvature.clamp(min=torch.finfo(codes.dtype).tiny)
    fitted = scale + change
    return torch.where((curvature > 0) & (fitted > 0), fitted, scale)
