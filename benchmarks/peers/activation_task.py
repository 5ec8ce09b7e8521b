"""Say how the peers quantize weights and activations, in the words of w8a8_cases.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ActivationTask:
    """How to quantize the linears of the layers."""

    weights: str
    """per-channel or per-tensor."""
    activations: str
    """token-dynamic, tensor-dynamic or tensor-static."""
    bits: int
    smooth: bool
    alpha: float | None
    """SmoothQuant's migration strength; None: the tool's own default."""
