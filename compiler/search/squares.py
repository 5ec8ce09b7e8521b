"""Sum squares, fast and without a copy in float64."""

from __future__ import annotations

import torch


def sum_of_squares(values: torch.Tensor) -> float:
    """Return the sum of all values squared: along the last axis in float32, those in float64."""
    return float(torch.linalg.vector_norm(values.float(), dim=-1).double().square().sum())
