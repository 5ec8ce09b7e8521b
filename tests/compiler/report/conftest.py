"""Small plans, made up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest

from castline.compiler.plan.decisions import (
    CalibrationFacts,
    PlanIdentity,
    PlannedBlock,
    PlannedCache,
    PlannedLinear,
    PlannedSite,
    QuantPlan,
)
from castline.compiler.quant.scheme import ActivationScheme, WeightScheme

PlanOf: TypeAlias = Callable[..., QuantPlan]

WEIGHTS = WeightScheme(8, "per-channel", symmetric=True)
ACTIVATIONS = ActivationScheme(8, "per-token", dynamic=True)
KEPT = "it reads 4,000 times the median"
DECLINED = "nothing takes the scale up"


@pytest.fixture(scope="session")
def plan_of() -> PlanOf:
    """Return a plan of `blocks` blocks: q and k read a smoothed site of 4 channels, down another.

    The second channel stands out by 40; its scale is 8, and the smoothed peak 5. down_proj of the
    first block is kept in float, k_proj has no error.
    """
    return _plan


def _plan(blocks: int = 2, *, smoothed: bool = True) -> QuantPlan:
    identity = PlanIdentity(
        checkpoint_sha256="c" * 64,
        searched={},
        calibration=CalibrationFacts("shipped", "d" * 64, 8, 128, 0, chat_template=True),
        version="1.2.3",
    )
    recipe = {"name": "w8a8", "smoothing": {"alpha": 0.5}, "unlimited": math.inf}
    return QuantPlan(identity, recipe, tuple(_block(index, smoothed) for index in range(blocks)))


def _block(index: int, smoothed: bool) -> PlannedBlock:
    name = f"model.layers.{index}"
    q, k = f"{name}.self_attn.q_proj.weight", f"{name}.self_attn.k_proj.weight"
    down = f"{name}.mlp.down_proj.weight"
    return PlannedBlock(
        index,
        name,
        (
            _linear(q, 38.0, 30.0 - index, 5.0 if smoothed else 40.0),
            _linear(k, math.inf, math.inf, 5.0 if smoothed else 40.0),
            _linear(down, 37.0, 25.0, 9.0) if index else _kept(down),
        ),
        (_site(f"/layers.{index}/norm", (q, k), smoothed), _down_site(f"/layers.{index}/up", down)),
        PlannedCache(np.full((1, 4), 0.5, np.float32), np.array([0.25], np.float32)),
    )


def _linear(name: str, weights: float, outputs: float, after: float) -> PlannedLinear:
    return PlannedLinear(name, WEIGHTS, ACTIVATIONS, None, None, weights, outputs, 40.0, after)


def _kept(name: str) -> PlannedLinear:
    return PlannedLinear(name, None, None, None, KEPT, None, None, 9.0, 9.0)


def _site(name: str, linears: tuple[str, ...], smoothed: bool) -> PlannedSite:
    scale = np.array([1.0, 8.0, 1.0, 1.0]) if smoothed else None
    return PlannedSite(
        site=name,
        kind="gain" if smoothed else "",
        linears=linears,
        peaks=np.array([1.0, 40.0, 0.0, 2.0], np.float32),
        weight_peaks=np.array([0.5, 0.25, 0.5, 0.5], np.float32),
        scale=scale,
        channel_scale=scale,
        alpha=0.55 if smoothed else None,
        declined=None if smoothed else "the recipe smooths nothing",
        error=0.001 if smoothed else None,
        error_before=0.25 if smoothed else None,
    )


def _down_site(name: str, linear: str) -> PlannedSite:
    peaks = np.array([9.0, 3.0], np.float32)
    weights = np.array([0.1, 0.2], np.float32)
    return PlannedSite(name, "", (linear,), peaks, weights, None, None, None, DECLINED, None, None)
