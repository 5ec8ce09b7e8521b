"""An output is compared again with what it was compiled from, or with another original."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from castline.compiler import recheck
from castline.compiler.pipeline import compile_model
from castline.compiler.recheck import check_output
from castline.compiler.recipes.load import load_recipe
from castline.compiler.report.outcome import CompileOutcome
from castline.errors import CheckpointError, TargetError

ENCODER_LIMITS = ("gate.hidden_cosine=0.5", "gate.embedding_cosine=0.5")


def test_checking_an_output_again_finds_the_same_figures(
    published: tuple[CompileOutcome, Path], source: str, evaluation_text: str
) -> None:
    outcome, output = published
    again = check_output(output, evaluation_text=evaluation_text, threads=1)
    assert again.against == source
    assert again.language == outcome.language
    assert again.verdicts == outcome.verdicts


def test_an_output_is_checked_against_another_original(
    published: tuple[CompileOutcome, Path],
    source: str,
    evaluation_text: str,
    tmp_path: Path,
    copy_with: Any,
) -> None:
    outcome, output = published
    other = copy_with(source, tmp_path / "other", "lm_head.weight", lambda array: array.fill(0))
    again = check_output(output, against=other, evaluation_text=evaluation_text, threads=1)
    assert again.against == other
    assert again.language is not None
    assert outcome.language is not None
    assert again.language.perplexity == outcome.language.perplexity
    assert again.language.perplexity_original == pytest.approx(160), "it knows nothing"
    assert again.language.kl_divergence > 10 * outcome.language.kl_divergence


def test_an_original_that_changed_since_is_refused_unless_it_is_named(
    source: str, evaluation_text: str, tmp_path: Path, compiled: Any, copy_with: Any
) -> None:
    model = copy_with(source, tmp_path / "model", "lm_head.weight", lambda array: array.fill(0))
    compiled(model, tmp_path / "out")
    shutil.rmtree(model)
    shutil.copytree(source, model)
    with pytest.raises(CheckpointError, match=rf"{model} is not what .*out was compiled from"):
        check_output(tmp_path / "out")
    named = check_output(
        tmp_path / "out", against=model, evaluation_text=evaluation_text, threads=1
    )
    assert named.against == model


def test_a_relative_source_is_found_from_another_directory_and_missed_when_gone(
    source: str,
    evaluation_text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled: Any,
) -> None:
    shutil.copytree(source, tmp_path / "org" / "model")
    monkeypatch.chdir(tmp_path)
    compiled("org/model", tmp_path / "out")
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = check_output(tmp_path / "out", evaluation_text=evaluation_text, threads=1)
    assert found.against == str(tmp_path / "org" / "model")
    shutil.rmtree(tmp_path / "org")
    with pytest.raises(CheckpointError, match=r"out was compiled from .*org/model, which does not"):
        check_output(tmp_path / "out")


def test_a_check_says_what_was_never_executed_and_times_nothing(
    source: str, evaluation_text: str, tmp_path: Path, compiled: Any, interrupted_at: Any
) -> None:
    compiled(source, tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text()) | {"not_executed": ["The engine was not executed."]}
    path.write_text(json.dumps(manifest))
    found = check_output(
        tmp_path / "out",
        evaluation_text=evaluation_text,
        threads=1,
        progress=interrupted_at("Timing"),
    )
    assert found.not_executed == ("The engine was not executed.",)


def test_too_little_memory_is_said_with_what_to_do(
    published: tuple[CompileOutcome, Path], evaluation_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, output = published
    monkeypatch.setattr(recheck, "available_memory", lambda: 1000)
    with pytest.raises(TargetError, match=r"available\. Run castline check where"):
        check_output(output, evaluation_text=evaluation_text)


def test_an_encoder_is_checked_again(encoder: Any, sentences: str, tmp_path: Path) -> None:
    outcome = compile_model(
        encoder.checkpoint.source,
        tmp_path / "out",
        recipe=load_recipe("w8a16-rtn", ENCODER_LIMITS),
        target="onnxruntime",
        evaluation_text=sentences,
        threads=1,
    )
    again = check_output(tmp_path / "out", evaluation_text=sentences, threads=1)
    assert again.encoding == outcome.encoding
    assert again.verdicts == outcome.verdicts
