"""SmoothQuant's formula: how much of each channel's outliers goes into the weights."""

from __future__ import annotations

from typing import TypeAlias

import torch

from castline.compiler.search.found_scale import LARGEST

Tensor: TypeAlias = torch.Tensor

_DEAD = 1e-12  # below it, a channel says nothing about its scale


def smoothing_scale(activation_peaks: Tensor, weight_peaks: Tensor, alpha: float) -> Tensor:
    """Return s = activation_peaks**alpha / weight_peaks**(1 - alpha), float64, shape as they have.

    Source: Xiao et al., SmoothQuant, arXiv:2211.10438, equation 4. Differs: a channel that is zero
    in the calibration text or in the weights gets s = 1, where the authors' code clamps it to 1e-5,
    which overflows float16; all is computed in float64, where theirs uses the weights' type.
    """
    a, w = activation_peaks.double(), weight_peaks.double()
    scale = a**alpha / w.clamp(min=_DEAD) ** (1 - alpha)
    alive = (a > _DEAD) & (w > _DEAD)
    return torch.where(alive, scale.clamp(1 / LARGEST, LARGEST), torch.ones_like(scale))
