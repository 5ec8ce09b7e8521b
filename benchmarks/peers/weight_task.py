"""Say how the peers quantize weights alone, in the words of weight_only_cases.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WeightTask:
    """How to quantize the weights of the linears of the layers."""

    method: str
    """One of the tool's own, as its script names them."""
    bits: int
    group_size: int
    symmetric: bool
    """False: with integer zero-points."""
