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


def test_brackets_in_paths_are_no_markup(compiled: Any, capsys: Any) -> None:
    assert "a[bold]b" in shown(replace(compiled, source="a[bold]b"), capsys)[0]
