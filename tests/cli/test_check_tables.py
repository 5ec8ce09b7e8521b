"""Layers, commands and what to keep are shown so that a user can go on from there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from castline.cli.check_tables import show_bisected, show_layers
from castline.compiler.report.bisect_outcome import BisectOutcome, TriedPiece
from castline.compiler.report.outcome import CheckOutcome


@dataclass(frozen=True)
class Figure:
    name: str
    relative_error: float
    cosine: float


@dataclass(frozen=True)
class Layers:
    layers: tuple[Figure, ...]
    first_to_diverge: Figure | None
    criterion: str = "a cosine below 0.98"


@dataclass(frozen=True)
class Language:
    perplexity_original: float = 10.0
    perplexity: float = 11.0
    kl_divergence: float = 0.25
    top1_agreement: float = 0.75
    tokens: int = 100


@dataclass(frozen=True)
class Verdict:
    name: str = "kl divergence"
    value: float | None = 0.05
    limit: float = 0.1
    at_most: bool = True
    passed: bool = True


GOOD, BAD = Figure("layer 0", 0.01, 0.9999), Figure("layer 1", 0.5, 0.9)
CHECKED = CheckOutcome(
    output=Path("out"),
    against="model",
    language=None,
    tensors=None,
    verdicts=(),
    layers=Layers((GOOD, BAD), BAD),
    commands=("polygraphy run a.onnx --onnxrt",),
    seconds=1.0,
)
BISECTED = BisectOutcome(
    output=Path("out"),
    against="model",
    pieces=(
        TriedPiece(name="m.layers.1", kl_divergence=0.2, kept=True, without={"kl divergence": 0.3}),
        TriedPiece(name="m.layers.0", kl_divergence=0.01, kept=False, without={}),
    ),
    language_quantized=Language(),
    verdicts_quantized=(Verdict(value=0.3, passed=False),),
    language=Language(kl_divergence=0.05),
    verdicts=(Verdict(),),
    settings=("keep=[m.layers.1.*]", "head=keep"),
    mixes=5,
    seconds=1.0,
)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_the_first_layer_to_diverge_is_marked_and_the_commands_follow(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_layers(CHECKED)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["layer", "1", "0.5", "0.90000", "diverges"]
    assert "the first to diverge is layer 1 (a cosine below 0.98)" in lines
    assert lines[-1] == "  polygraphy run a.onnx --onnxrt"


def test_no_layer_diverges_and_nothing_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    show_layers(replace(CHECKED, layers=Layers((GOOD,), None)))
    assert "no layer diverges (a cosine below 0.98)" in capsys.readouterr().out
    show_layers(replace(CHECKED, layers=None, commands=()))
    assert capsys.readouterr().out == ""


def test_what_to_compile_with_is_ready_for_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    show_bisected(BISECTED)
    shown = capsys.readouterr().out
    assert "kept in float; without it kl divergence 0.3" in shown
    assert "  --set 'keep=[m.layers.1.*]' --set head=keep\n" in shown
    assert "1 of 2 kept" in shown


def test_a_gate_that_passes_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_bisected(replace(BISECTED, pieces=(), settings=()))
    assert "the gate passes as it is" in capsys.readouterr().out
