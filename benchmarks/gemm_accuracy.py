"""Judge a product against float64: relative error, and units in the last place."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Storing y alone costs 2.1e-4 in float16 and 1.7e-3 in bfloat16. "expanded" weights have been
# stored in that type too; what that costs a small y is many units of its last place.
MOST_RELATIVE = {
    "weight-only": {torch.float16: 3e-4, torch.bfloat16: 2.5e-3},
    "expanded": {torch.float16: 3.5e-4, torch.bfloat16: 3e-3},
    "integer": {torch.float16: 3e-4, torch.bfloat16: 2.5e-3},
}
MOST_STEPS = {"weight-only": 4.0, "expanded": math.inf, "integer": 1.0}
SMALL = 1e-2  # of the root mean square: below it, steps of the sum say nothing of the kernel


@dataclass(frozen=True)
class Errors:
    """How far y is from the reference."""

    relative: float  # ||y - reference|| / ||reference||
    steps: float  # most units in the last place, of values that are not small
    at: tuple[int, int]  # where: token, output channel
    strays: int  # values that are no numbers

    def refusal(self, dtype: torch.dtype, kind: str) -> str | None:
        """Return why y is wrong; None: it is right."""
        if self.strays:
            return f"{self.strays} values are no numbers"
        if self.steps > MOST_STEPS[kind]:
            return f"y{list(self.at)} is {self.steps:.1f} units in the last place off"
        most = MOST_RELATIVE[kind][dtype]
        if self.relative > most:
            return f"the relative error is {self.relative:.2g}, above {most:.2g}"
        return None


def errors(y: Tensor, reference: Tensor) -> Errors:
    """Return the errors of y [M, N] against a reference in float64.

    Half a unit is what rounding a reference to the type of y costs; it is taken off, so a result
    that is the nearest value has 0 steps.
    """
    strays = int((~torch.isfinite(y)).sum())
    wide = y.double()
    distance = (wide - reference).abs()
    relative = float(distance.norm() / reference.norm().clamp_min(1e-300))
    large = reference.abs() >= SMALL * reference.square().mean().sqrt()
    steps = torch.where(large, distance / step_of(reference, y.dtype) - 0.5, 0).clamp_min(0)
    worst = int(steps.nan_to_num(nan=torch.inf).argmax())
    at = divmod(worst, y.shape[1])
    return Errors(relative, float(steps[at]), at, strays)


def step_of(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the unit in the last place of `dtype` at float64 `values`."""
    kind = torch.finfo(dtype)
    exponent = torch.frexp(values.abs().clamp_min(kind.tiny)).exponent - 1
    return torch.ldexp(torch.full_like(values, kind.eps), exponent)
