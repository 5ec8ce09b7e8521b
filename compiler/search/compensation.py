"""Choose codes so that each makes up for what the rounding of the others did to the output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

import torch

from castline.compiler.search.fake_grids import FakeGrid

Tensor: TypeAlias = torch.Tensor

SWEEPS = 3
"""Times that all codes and then all scales are gone through; more gains next to nothing."""

_COLUMNS = 64  # codes along K that are chosen before the rest hears of it, in one product


def compensated(
    groups: Tensor, second: Tensor, grid: FakeGrid, sweeps: int = SWEEPS
) -> tuple[FakeGrid, Tensor]:
    """Return a grid with refined scales, and the codes less zero-points [N, G, group], float32.

    `groups` [N, G, group] are a matrix's weights, `second` [K, K] is the sum of x^T x over what it
    read, `grid` has scales [N, G, 1]. Coordinate descent on sum |x (Q - W)^T|^2: every code in turn
    becomes the best one for all others as they are, then every scale the least-squares one for the
    codes; zero-points stay. No step makes the error larger, so it is at most that of rounding to
    nearest on `grid`.

    Source: Behdin et al., QuantEase, arXiv:2309.01885, for the codes; the scales between the sweeps
    are ours.
    """
    n, count, width = groups.shape
    weights = groups.reshape(n, -1).T
    codes = grid.steps(groups).reshape(n, -1).T.contiguous()
    zero = torch.zeros_like(grid.scale) if grid.zero_point is None else grid.zero_point
    least, most = (limit - zero for limit in grid.code_range)
    scale = grid.scale[..., 0].T.contiguous()  # [G, N], as are the limits
    lowest, highest = least[..., 0].T.contiguous(), most[..., 0].T.contiguous()
    # How the squared error grows with each weight; kept up to date by every step.
    pull = second @ ((codes.reshape(count, width, n) * scale[:, None]).reshape(-1, n) - weights)
    for _ in range(sweeps):
        _choose_codes(codes, pull, second, scale, lowest, highest)
        _fit_scales(codes, pull, second, scale)
    grid = replace(grid, scale=scale.T[..., None].contiguous())
    return grid, codes.T.reshape(n, count, width).contiguous()


def _choose_codes(
    codes: Tensor, pull: Tensor, second: Tensor, scale: Tensor, lowest: Tensor, highest: Tensor
) -> None:
    """Go once through the codes [K, N]; `pull` = second @ error [K, N] is kept up to date."""
    width = len(codes) // len(scale)
    curvature = second.diagonal()
    reached = (curvature > 0).tolist()
    for begin in range(0, len(codes), _COLUMNS):
        end = min(begin + _COLUMNS, len(codes))
        near, within = pull[begin:end].clone(), second[begin:end, begin:end]
        moved = torch.zeros_like(near)
        with _one_thread():
            for place, k in enumerate(range(begin, end)):
                if not reached[k]:
                    continue
                group = k // width
                step = scale[group]
                code = (codes[k] - near[place] / (curvature[k] * step)).round_()
                code = torch.minimum(torch.maximum(code, lowest[group]), highest[group])
                torch.mul(code - codes[k], step, out=moved[place])
                codes[k] = code
                near[place + 1 :].addr_(within[place + 1 :, place], moved[place])
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


def _fit_scales(codes: Tensor, pull: Tensor, second: Tensor, scale: Tensor) -> None:
    """Fit the scales [G, N] to the codes by least squares, group after group, in place."""
    width = len(codes) // len(scale)
    for group in range(len(scale)):
        at = slice(group * width, (group + 1) * width)
        own = codes[at]
        curvature = (own * (second[at, at] @ own)).sum(dim=0)
        change = -(own * pull[at]).sum(dim=0) / curvature.clamp(min=torch.finfo(own.dtype).tiny)
        fitted = scale[group] + change
        fitted = torch.where((curvature > 0) & (fitted > 0), fitted, scale[group])
        pull.addmm_(second[:, at], own * (fitted - scale[group]))
        scale[group] = fitted
