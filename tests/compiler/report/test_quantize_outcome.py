"""What a search came to is counted, and written for machines."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from castline.compiler.plan.decisions import (
    CalibrationFacts,
    PlanIdentity,
    PlannedBlock,
    PlannedLinear,
    PlannedSite,
    QuantPlan,
)
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.report.quantize_outcome import QuantizeOutcome

INT8 = WeightScheme(8, "per-channel", symmetric=True)


def linear(name: str, sqnr: float | None = None, kept: str | None = None) -> PlannedLinear:
    weights = None if kept else INT8
    return PlannedLinear(name, weights, None, None, kept, None, sqnr, 1.0, 1.0)


def site(name: str, scale: float | None) -> PlannedSite:
    peaks = np.ones(2, np.float32)
    folded = None if scale is None else np.full(2, scale)
    return PlannedSite(name, "", ("q",), peaks, peaks, folded, folded, None, None, None, None)


def outcome() -> QuantizeOutcome:
    first = (linear("q", 30.0), linear("k", math.inf), linear("gate", kept="it chooses experts"))
    second = (linear("o", 0.0), linear("up"), linear("one", kept="it has a single output"))
    third = (linear("down", 12.0), linear("other", kept="it chooses experts"))
    blocks = (
        PlannedBlock(0, "layers.0", first, (site("x", 2.0), site("y", None)), None),
        PlannedBlock(1, "layers.1", (*second, *third), (site("z", 1.0),), None),
    )
    facts = CalibrationFacts("shipped", "t", 4, 8, 0, chat_template=False)
    plan = QuantPlan(PlanIdentity("c", {}, facts, "1.0"), {}, blocks)
    return QuantizeOutcome(
        output=Path("plan"), source="tiny", recipe="r", plan=plan, seconds=1.5, notes=("a note",)
    )


def test_quantized_and_kept_linears_are_counted_by_reason() -> None:
    assert [one.name for one in outcome().quantized] == ["q", "k", "o", "up", "down"]
    assert outcome().kept == {"it chooses experts": 2, "it has a single output": 1}
    assert outcome().folded == 2


def test_the_worst_linears_come_first_and_those_never_measured_do_not() -> None:
    assert [one.name for one in outcome().worst(2)] == ["o", "down"]
    assert [one.name for one in outcome().worst(9)] == ["o", "down", "q", "k"]


def test_the_fields_are_strict_json() -> None:
    found = json.loads(json.dumps(outcome().to_json(), allow_nan=False))
    assert found == {
        "output": "plan",
        "source": "tiny",
        "recipe": "r",
        "algorithm": "",
        "checkpoint_sha256": "c",
        "calibration": {
            "source": "shipped",
            "sha256": "t",
            "samples": 4,
            "length": 8,
            "seed": 0,
            "chat_template": False,
        },
        "blocks": 2,
        "linears": 8,
        "quantized": 5,
        "kept": {"it chooses experts": 2, "it has a single output": 1},
        "sites": 3,
        "folded": 2,
        "divided": 0,
        "clipped": None,
        "reassembled": 0,
        "corrected": None,
        "unreached": {},
        "seconds": 1.5,
        "notes": ["a note"],
    }


def test_what_awq_decided_is_counted() -> None:
    stack = replace(linear("experts"), clipped=0.5, unreached=(0, 3))
    divided = replace(site("x", 2.0), explicit=True)
    linears = (replace(linear("q"), clipped=0.25), stack, linear("k"))
    block = PlannedBlock(0, "layers.0", linears, (divided, site("y", 2.0)), None)
    plan = QuantPlan(outcome().plan.identity, {"algorithm": "awq"}, (block,))
    found = QuantizeOutcome(output=Path("plan"), source="t", recipe="r", plan=plan, seconds=1.0)
    assert (found.algorithm, found.folded, found.divided) == ("awq", 1, 1)
    assert found.clipped == 0.375
    assert found.unreached == {"experts": (0, 3)}
    assert found.to_json()["unreached"] == {"experts": [0, 3]}
