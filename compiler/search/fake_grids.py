"""Lay grids of codes over values and round values to them, in torch, as the arithmetic does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme
from castline.compiler.quant.two_level import LEAST_UNIT_EXPONENT, MOST_UNITS, UNIT_BITS
from castline.compiler.quant.weight_grid import LEAST_SCALE

Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True, eq=False)
class FakeGrid:
    """What values can be once they are codes: (code - zero_point) * scale, all of it float32."""

    scale: Tensor
    zero_point: Tensor | None
    """In the shape of the scale; None on a symmetric grid."""
    code_range: tuple[int, int]
    unit: Tensor | None = None
    """In the shape of the scale: what it is 1 to 16 times of; None where scales have one level."""

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
            return replace(self, scale=scale)
        zero_point = torch.where(better, other.zero_point, self.zero_point)
        return FakeGrid(scale, zero_point, self.code_range)

    @classmethod
    def joined(cls, parts: Sequence[FakeGrid]) -> FakeGrid:
        """Return one grid for what those of `parts` are for, one after the other along N."""
        zero_points = [part.zero_point for part in parts if part.zero_point is not None]
        units = [part.unit for part in parts if part.unit is not None]
        return cls(
            torch.cat([part.scale for part in parts]),
            torch.cat(zero_points) if zero_points else None,
            parts[0].code_range,
            torch.cat(units) if units else None,
        )


def channel_unit(groups: Tensor, scheme: WeightScheme) -> Tensor | None:
    """Return the unit of each group's scale [N, G, 1], as `castline.compiler.quant.weight_grid`.

    `groups` [N, G, group] are a matrix's weights. None where scales have one level.
    """
    if not scheme.in_two_levels(groups.shape[1] * groups.shape[2]):
        return None
    scale = _symmetric_scale(*ends(groups), scheme)
    wanted = scale.amax(dim=1, keepdim=True) / MOST_UNITS
    least = (torch.frexp(wanted).exponent - UNIT_BITS).clamp(min=LEAST_UNIT_EXPONENT)
    unit = torch.ldexp(torch.ldexp(wanted, -least).round_().clamp_(min=1), least)
    return torch.where(wanted > 0, unit, 1.0).expand_as(scale)


def in_units(scale: Tensor, unit: Tensor) -> Tensor:
    """Return each scale as the nearest of 1 to 16 of its unit, in memory of its own."""
    return torch.div(scale, unit).round_().clamp_(1, MOST_UNITS).mul_(unit)


def weight_grid(
    low: Tensor, high: Tensor, scheme: WeightScheme, unit: Tensor | None = None
) -> FakeGrid:
    """Return the grid that `castline.compiler.quant.weight_grid` lays, with scales of float32.

    `unit` has the shape of `low`; None where scales have one level.
    """
    least, most = scheme.code_range
    if scheme.symmetric:
        scale = _symmetric_scale(low, high, scheme)
        kept = _above_zero(scale) if unit is None else in_units(scale, unit)
        return FakeGrid(kept, None, (least, most), unit)
    low, high = low.clamp(max=0), high.clamp(min=0)
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


def _symmetric_scale(low: Tensor, high: Tensor, scheme: WeightScheme) -> Tensor:
    least, most = scheme.code_range
    return torch.maximum(_over(high.clamp(min=0), most), _over(low.clamp(max=0), least))


def _over(numerator: Tensor, denominator: int) -> Tensor:
    """Divide as numpy does: on CUDA, torch multiplies by the reciprocal of a Python number."""
    return numerator / numerator.new_full((), denominator)


def _above_zero(scale: Tensor) -> Tensor:
    """Return scales of at least the least normal number; of zeros, 1."""
    return torch.where(scale > 0, scale.clamp(min=float(LEAST_SCALE)), 1.0)
