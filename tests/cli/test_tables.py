from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from castline.cli.tables import show_compiled


@dataclass(frozen=True)
class Tensor:
    name: str
    relative_error: float
    cosine: float


@dataclass(frozen=True)
class Tensors:
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Encoding:
    hidden_cosine: float = 0.99864
    worst_hidden_cosine: float = 0.99384
    relative_error: float = 0.05
    embedding_cosine: float = 0.99823
    worst_embedding_cosine: float = 0.99432
    similarity_correlation: float = 0.99902
    tokens: int = 3000
    passages: int = 68


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


def shown(outcome: Any, capsys: pytest.CaptureFixture[str]) -> list[str]:
    show_compiled(outcome)
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_leaves_out_what_was_not_measured(compiled: Any, capsys: Any) -> None:
    bare = replace(compiled, language=None, original_speed=None, speed=None, verdicts=())
    lines = shown(bare, capsys)
    assert "gate: not judged" in lines
    assert not any(line.startswith(("perplexity", "prefill")) for line in lines)


def test_one_speed_alone_is_shown(compiled: Any, capsys: Any) -> None:
    lines = shown(replace(compiled, original_speed=None), capsys)
    assert "decode, tokens/s - 239" in lines


def test_only_the_failed_verdicts_are_named(compiled: Any, failed: Any, capsys: Any) -> None:
    lines = shown(replace(compiled, verdicts=(*compiled.verdicts, failed)), capsys)
    assert "gate: failed (top1 agreement 0.745, at least 0.9)" in lines


def test_a_figure_that_is_missing_is_said(compiled: Any, failed: Any, capsys: Any) -> None:
    lines = shown(replace(compiled, verdicts=(replace(failed, value=None),)), capsys)
    assert "gate: failed (top1 agreement not measured, at least 0.9)" in lines


def test_the_cosine_of_the_logits_is_shown(compiled: Any, capsys: Any) -> None:
    tensors = Tensors((Tensor("present.0.key", 0.1, 0.5), Tensor("logits", 0.01, 0.99871)))
    assert "cosine of the logits 0.99871" in shown(replace(compiled, tensors=tensors), capsys)


def test_an_encoder_has_cosines_and_one_speed(compiled: Any, capsys: Any) -> None:
    reading = replace(compiled.speed, decode=None)
    speeds = {"original_speed": None, "speed": reading}
    lines = shown(replace(compiled, language=None, encoding=Encoding(), **speeds), capsys)
    assert "cosine of tokens, mean (worst) 0.99864 (0.99384)" in lines
    assert "cosine of texts, mean (worst) 0.99823 (0.99432)" in lines
    assert "same order of similarities 0.99902" in lines
    assert "tokens/s - 1,205" in lines
    assert not any("decode" in line or "perplexity" in line for line in lines)


def test_brackets_in_paths_are_no_markup(compiled: Any, capsys: Any) -> None:
    assert "a[bold]b" in shown(replace(compiled, source="a[bold]b"), capsys)[0]
