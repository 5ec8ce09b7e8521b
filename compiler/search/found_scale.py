"""Say which scale a search found for a site, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

Tensor: TypeAlias = torch.Tensor

LARGEST = 2.0**13
"""Scales lie within 1/LARGEST and LARGEST, so that gains and weights up to 7 stay below float16's
largest number when they are divided or multiplied."""


@dataclass(frozen=True, eq=False)
class FoundScale:
    """The best scale of those that were tried."""

    scale: Tensor
    """float64 [scales]."""
    alpha: float | None
    """The exponent that made it; None: no scale was better than every exponent."""
    error: float
    """Squared error of the outputs that were compared over their square, quantized so."""
    error_before: float
    """The same without a scale."""
    inspected: str | None = None
    """Path of the module whose outputs were compared; None: those of the linears."""

    def or_better(self, scale: Tensor, alpha: float, error: float) -> FoundScale:
        """Return this one, or the other if its error is smaller."""
        if error < self.error:
            return replace(self, scale=scale, alpha=alpha, error=error)
        return self
