from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from castline.cli.quantize import calibration_overrides
from castline.compiler.plan.decisions import (
    CalibrationFacts,
    PlanIdentity,
    PlannedBlock,
    PlannedLinear,
    PlannedSite,
    QuantPlan,
)
from castline.compiler.quant.scheme import ActivationScheme, WeightScheme
from castline.compiler.report.quantize_outcome import QuantizeOutcome
from castline.errors import OutputError

WEIGHTS = WeightScheme(8, "per-channel", True)
ACTIVATIONS = ActivationScheme(8, "per-token", dynamic=True)


def linear(name: str, output_sqnr: float | None, kept: str | None = None) -> PlannedLinear:
    if kept:
        return PlannedLinear(name, None, None, None, kept, None, None, 3.0, 3.0)
    return PlannedLinear(name, WEIGHTS, ACTIVATIONS, None, None, 40.0, output_sqnr, 2388.0, 12.5)


def planned() -> QuantPlan:
    ones = np.ones(4)
    site = PlannedSite("/x", "norm gain", ("a",), ones, ones, ones, ones, 0.5, None, 0.1, 0.2)
    linears = (linear("a", 31.25), linear("b", 7.5), linear("router", None, "it chooses experts"))
    facts = CalibrationFacts("shipped", "ab" * 32, 32, 512, 42, False)
    identity = PlanIdentity("cd" * 32, {}, facts, "0.1.0")
    return QuantPlan(identity, {}, (PlannedBlock(0, "layers.0", linears, (site,), None),))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def quantize_model(source: str, output: Path, **options: Any) -> QuantizeOutcome:
        found.update(source=source, output=output, **options)
        return QuantizeOutcome(
            output=output,
            source=source,
            recipe=options["recipe"].name,
            plan=planned(),
            seconds=95.0,
            notes=("left out: a head",),
        )

    monkeypatch.setattr("castline.compiler.planning.quantize_model", quantize_model)
    return found


def test_options_of_the_text_change_the_recipe(run: Any, asked: dict[str, Any]) -> None:
    result = run(
        "quantize", "model.gguf", "-o", "plan", "-r", "w8a8-smoothquant-o3",
        "--calibration-text", "it's: a text.txt", "--samples", "8", "--sequence-length", "128",
        "--seed", "7", "--chat-template", "--set", "smoothing.alpha=0.5", "--device", "cuda",
        "--overwrite",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    recipe = asked["recipe"]
    calibration = recipe.calibration
    assert calibration.text == "it's: a text.txt"
    assert (calibration.samples, calibration.length, calibration.seed) == (8, 128, 7)
    assert calibration.chat_template
    assert recipe.smoothing.alpha == 0.5
    assert (asked["device"], asked["overwrite"]) == ("cuda", True)


def test_defaults_are_the_recipes_own(run: Any, asked: dict[str, Any]) -> None:
    assert run("quantize", "m", "-o", "plan").exit_code == 0
    calibration = asked["recipe"].calibration
    assert (calibration.text, calibration.samples, calibration.length) == (None, 32, None)
    assert (asked["recipe"].name, asked["device"]) == ("w8a8-smoothquant", "cpu")


def test_tells_what_was_decided_and_what_loses_most(run: Any, asked: dict[str, Any]) -> None:
    result = run("quantize", "m", "-o", "plan")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert asked["source"] == "m"
    assert "2 of 3 linears in 1 blocks quantized; scales folded at 1 of 1 sites" in lines
    text = "calibrated on 32 samples of 512 tokens: shipped, SHA-256 abababababab"
    assert text in lines
    assert "1 stay in float: it chooses experts" in lines
    assert lines.index("b 7.5 2,388 12.5") < lines.index("a 31.2 2,388 12.5")
    assert "note: left out: a head" in lines


def test_tells_what_awq_narrowed_divided_and_never_reached(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned()
    (block,) = plan.blocks
    a, b, router = block.linears
    linears = (replace(a, clipped=0.25), replace(b, clipped=0.5, unreached=(1, 2)), router)
    site = replace(block.sites[0], explicit=True)
    other = replace(block, linears=linears, sites=(site,))
    outcome = QuantizeOutcome(
        output=Path("plan"),
        source="m",
        recipe="mine",
        plan=QuantPlan(plan.identity, {"algorithm": "awq"}, (other,)),
        seconds=1.0,
    )
    monkeypatch.setattr("castline.compiler.planning.quantize_model", lambda *_, **__: outcome)
    found = " ".join(run("quantize", "m", "-o", "plan").stdout.split())
    assert "quantized by awq; scales folded at 0 of 1 sites, divided in the graph at 1" in found
    assert "ranges narrowed by search: 37.5 %" in found
    assert "2 matrices of experts that the text never reached are rounded to nearest" in found


def test_json_is_one_document(run: Any, asked: dict[str, Any]) -> None:
    document = json.loads(run("quantize", "m", "-o", "plan", "--json").stdout)
    assert document["quantized"] == 2
    assert document["kept"] == {"it chooses experts": 1}
    assert document["calibration"]["samples"] == asked["recipe"].calibration.samples


def test_an_error_is_a_sentence(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def quantize_model(*_: Any, **__: Any) -> None:
        raise OutputError("plan: holds a plan of another recipe.")

    monkeypatch.setattr("castline.compiler.planning.quantize_model", quantize_model)
    result = run("quantize", "m", "-o", "plan")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: plan: holds a plan of another recipe.\n"


def test_what_is_not_given_changes_nothing() -> None:
    assert calibration_overrides({"text": None, "samples": None}) == []
    assert calibration_overrides({"samples": 4}) == ["calibration.samples=4"]
