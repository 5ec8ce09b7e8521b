"""Lay grids of codes over values and round values to them, in torch, as the arithmetic does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme
from castline.compiler.quant.weight_grid import LEAST_SCALE

Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True, eq=False)
class FakeGrid:
    """What values can be once they are codes: (code - zero_point) * scale, all of it float32."""

    scale: Tensor
    zero_point: Tensor | None
    """In the shape of the scale; None on a symmetric grid."""
    code_range: tuple[int, int]

    def rounded(self, values: Tensor) -> Tensor:
        """Return the nearest values on the grid, in memory of their own."""
        return self.steps(values).mul_(self.scale)

    def steps(self, values: Tensor) -> Tensor:
        """Return the nearest codes less the zero-points, in memory of their own."""
        codes = torch.div(values, self.scale).round_()
        if self.zero_point is None:
            return codes.clamp_(*self.code_range)
        codes.add_(self.zero_point).clamp_(*self.code_range)
        return codes.sub_(self.zero_point)

    def where(self, better: Tensor, other: FakeGrid) -> FakeGrid:
        """Return the grid that is `other` where `better`, in the shape of the scales, is true."""
        scale = torch.where(better, other.scale, self.scale)
        if self.zero_point is None or other.zero_point is None:
            return FakeGrid(scale, None, self.code_range)
        zero_point = torch.where(better, other.zero_point, self.zero_point)
        return FakeGrid(scale, zero_point, self.code_range)

    @classmethod
    def joined(cls, parts: Sequence[FakeGrid]) -> FakeGrid:
        """Return one grid for what those of `parts` are for, one after the other along N."""
        zero_points = [part.zero_point for part in parts if part.zero_point is not None]
        return cls(
            torch.cat([part.scale for part in parts]),
            torch.cat(zero_points) if zero_points else None,
            parts[0].code_range,
        )


def weight_grid(low: Tensor, high: Tensor, scheme: WeightScheme) -> FakeGrid:
    """Return the grid that `castline.compiler.quant.weight_grid` lays, with scales of float32."""
    least, most = scheme.code_range
    low, high = low.clamp(max=0), high.clamp(min=0)
    if scheme.symmetric:
        scale = _above_zero(torch.maximum(_over(high, most), _over(low, least)))
        return FakeGrid(scale, None, (least, most))
    scale = _above_zero(_over(high, most) - _over(low, most))
    return FakeGrid(scale, (-low / scale).round_().clamp_(least, most), (least, most))


def activation_grid(low: Tensor, high: Tensor, scheme: ActivationScheme) -> FakeGrid:
    """Return the grid that `castline.compiler.quant.activations` lays over dynamic ranges."""
    least, most = scheme.code_range
    low, high = low.clamp(max=0), high.clamp(min=0)
    if scheme.symmetric:
        scale = _above_zero(_over(torch.maximum(high, -low), most))
        return FakeGrid(scale, None, (least, most))
    scale = _above_zero(_over(high - low, most - least))
    zero_point = (least - low / scale).round_().clamp_(least, most)
    return FakeGrid(scale, zero_point, (least, most))


def static_grid(
    parameters: QuantParameters, scheme: ActivationScheme, device: torch.device
) -> FakeGrid:
    """Return the grid of a static scheme, on `device`."""
    scale = torch.full((), parameters.scale, device=device)
    zero_point = torch.full((), float(parameters.zero_point), device=device)
    return FakeGrid(scale, None if scheme.symmetric else zero_point, scheme.code_range)


def ends(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest of `values` [..., K] along K, [..., 1].

    On a CPU torch.aminmax takes ten times as long as both of these.
    """
    return values.amin(dim=-1, keepdim=True), values.amax(dim=-1, keepdim=True)


def _over(numerator: Tensor, denominator: int) -> Tensor:
    """Divide as numpy does: on CUDA, torch multiplies by the reciprocal of a Python number."""
    return numerator / numerator.new_full((), denominator)


def _above_zero(scale: Tensor) -> Tensor:
    """Return scales of at least the least normal number; of zeros, 1."""
    return torch.where(scale > 0, scale.clamp(min=float(LEAST_SCALE)), 1.0)
