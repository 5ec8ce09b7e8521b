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
    zero = zero[..., 0].T
    scale = grid.scale[..., 0].T.contiguous()  # [G, N], as are the zero-points and the units
    unit = None if grid.unit is None else grid.unit[..., 0].T
    apart = (codes.reshape(count, width, n) * scale[:, None]).reshape(-1, n)
    apart.sub_(groups.reshape(n, -1).T)
    columns = _Columns(min(width, _COLUMNS), n, groups)
    for group in [*range(count)] * sweeps:
        at = slice(group * width, (group + 1) * width)
        own, step, within = codes[at], scale[group], second[at, at]
        before = own * step
        pull = second[at] @ apart  # how the squared error grows with each weight
        limits = tuple(limit - zero[group] for limit in grid.code_range)
        with _one_thread():
            columns.choose(own, pull, within, step, limits)
        fitted = _fitted(own, pull, within, step, before)
        fitted = fitted if unit is None else in_units(fitted, unit[group])
        apart[at] += (own * fitted).sub_(before)
        scale[group] = fitted
    grid = replace(grid, scale=scale.T[..., None].contiguous())
    return grid, codes.T.reshape(n, count, width).contiguous()


class _Columns:
    """Chooses codes one after the other, in memory that is used again and again."""

    def __init__(self, most: int, n: int, like: Tensor) -> None:
        """Make room for as many codes along K as are chosen together, of `n` channels each."""
        self._moves, self._near = like.new_zeros(most, n), like.new_zeros(most, most)
        # A view takes as long as the arithmetic on it: they are made once.
        self._steps = [
            (self._moves[place], self._moves[:place].T, self._near[place, :place])
            for place in range(most)
        ]

    def choose(
        self,
        codes: Tensor,
        pull: Tensor,
        second: Tensor,
        scale: Tensor,
        limits: tuple[Tensor, ...],
    ) -> None:
        """Go once through the codes [group, N] of a group with scales [N], in place.

        `pull` [group, N] is second @ error before, `limits` are the least and the greatest code.
        """
        curvature = second.diagonal()[:, None]
        share = torch.where(curvature > 0, 1 / curvature, 0.0)
        moved = torch.empty_like(codes)
        for begin in range(0, len(codes), len(self._moves)):
            at = slice(begin, min(begin + len(self._moves), len(codes)))
            alone = torch.addmm(pull[at], second[at, :begin], moved[:begin]).mul_(share[at])
            count = len(alone)
            torch.div(alone, -scale, out=self._moves[:count])
            torch.mul(second[at, at], share[at], out=self._near[:count, :count])
            self._move([limit - codes[at] for limit in limits])
            codes[at] += self._moves[:count]
            torch.mul(self._moves[:count], scale, out=moved[at])

    def _move(self, limits: list[Tensor]) -> None:
        """Make whole steps within `limits` of those that are best for each code alone."""
        lowest, highest = limits
        for (move, others, near), low, high in zip(
            self._steps, lowest.unbind(), highest.unbind(), strict=False
        ):
            move.addmv_(others, near, alpha=-1).round_().clamp_(low, high)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one CPU thread: many small steps wait for each other longer than they take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fitted(codes: Tensor, pull: Tensor, second: Tensor, scale: Tensor, before: Tensor) -> Tensor:
    """Return the least-squares scales [N] for the codes [group, N], in memory of their own.

    `pull` is second @ error when the weights were still `before`.
    """
    reached = second @ codes
    curvature = (codes * reached).sum(dim=0)
    moved = (codes * scale).sub_(before)
    change = (codes * pull).addcmul_(reached, moved).sum(dim=0)
    change /= -curvature.clamp(min=torch.finfo(codes.dtype).tiny)
    fitted = scale + change
    return torch.where((curvature > 0) & (fitted > 0), fitted, scale)
