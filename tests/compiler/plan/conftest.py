"""Build a plan that has one of everything."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from castline.compiler.plan.decisions import (
    CalibrationFacts,
    PlanIdentity,
    PlannedBlock,
    PlannedCache,
    PlannedCorrection,
    PlannedLinear,
    PlannedReassembly,
    PlannedSite,
)
from castline.compiler.quant.channel_map import ChannelMap
from castline.compiler.quant.scheme import (
    ActivationScheme,
    QuantParameters,
    RangeMethod,
    WeightScheme,
)

INT8 = WeightScheme(8, "per-channel", symmetric=True, range=RangeMethod("mse"))
INT4 = WeightScheme(4, 32, symmetric=False)
STATIC = ActivationScheme(8, "per-tensor", dynamic=False, range=RangeMethod("percentile", 99.5))
K = 4


PLACED = ChannelMap(
    np.array([0, 0, 2, 1]),
    np.array([0.5, 0.5, 1, 1 / 3], np.float32),
    np.array([3, 3]),
    np.array([2, 3]),
    np.array([1 / 3, 1 / 3], np.float32),
)


def smoothed(name: str) -> PlannedSite:
    ramp = np.arange(1, K + 1)
    return PlannedSite(
        f"/{name}/norm_output_0",
        "norm gain",
        (f"{name}.q.weight", f"{name}.k.weight"),
        peaks=ramp.astype(np.float32),
        weight_peaks=(ramp / 8).astype(np.float32),
        scale=ramp[:2] / 3,
        channel_scale=np.repeat(ramp[:2] / 3, 2),
        alpha=0.55,
        declined=None,
        error=0.01,
        error_before=0.1 + 0.2,
        inspected="mlp",
        explicit=True,
        reassembly=PlannedReassembly(
            PLACED, (f"{name}.q.weight",), 1 / 3, "merge-error", 0.1, 0.1 + 0.2, "self_attn"
        ),
    )


def declined(name: str) -> PlannedSite:
    peaks = np.zeros(K, np.float32)
    return PlannedSite(
        f"/{name}/act", "", (f"{name}.gate",), peaks, peaks, None, None, None, "Größe", None, None
    )


@pytest.fixture
def block() -> Callable[..., PlannedBlock]:
    """Return a block of two sites, three linears and maybe a cache."""

    def of(index: int = 0, *, cache: bool = True) -> PlannedBlock:
        name = f"model.layers.{index}"
        parameters = QuantParameters(0.1, -3)
        keys = np.linspace(0.1, 1, 6, dtype=np.float32).reshape(2, 3)
        return PlannedBlock(
            index,
            name,
            (
                PlannedLinear(
                    f"{name}.q.weight", INT8, STATIC, parameters, None, 40, 1 / 3, 9, 8, 0.1, (2, 5)
                ),
                PlannedLinear(
                    f"{name}.k.weight", INT4, None, None, None, math.inf, math.inf, 0.0, 0.0
                ),
                PlannedLinear(
                    f"{name}.gate", None, None, None, "it chooses experts", None, None, 2.0, 2.0
                ),
            ),
            (smoothed(name), declined(name)),
            PlannedCache(keys, np.array([0.5], np.float32)) if cache else None,
            correction=PlannedCorrection(0, 4, 1 / 3, 0.1, 0.2, 10, merged=True),
        )

    return of


@pytest.fixture
def identity() -> Callable[..., PlanIdentity]:
    """Return what a plan depends on, with other fields in place of its own."""

    def of(
        checkpoint: str = "c" * 64, text: str = "t" * 64, bits: int = 8, version: str = "1.0"
    ) -> PlanIdentity:
        facts = CalibrationFacts("shipped", text, 4, 8, 0, chat_template=False)
        return PlanIdentity(
            checkpoint, {"weights": {"bits": bits}, "keep": ["*.0.*"]}, facts, version
        )

    return of
