"""An output is compared again with what it was compiled from, or with another original."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from polygraphy.json import load_json

from castline.compiler import recheck
from castline.compiler.pipeline import compile_model, export_model
from castline.compiler.recheck import check_output
from castline.compiler.recipes.load import load_recipe
from castline.compiler.report.outcome import CompileOutcome
from castline.compiler.targets.tensorrt.profile import Profile, Range, model_shapes
from castline.errors import CheckpointError, OutputError, TargetError

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


def test_any_two_models_are_compared_and_the_layers_between(
    published: tuple[CompileOutcome, Path], source: str, evaluation_text: str, tmp_path: Path
) -> None:
    outcome, output = published
    export_model(source, tmp_path / "float")
    options: dict[str, Any] = {"evaluation_text": evaluation_text, "threads": 1}
    found = check_output(output, against=str(tmp_path / "float"), layers=True, **options)
    assert found.language is not None
    assert outcome.language is not None
    assert found.language.perplexity == outcome.language.perplexity
    assert found.layers is not None
    assert [one.name for one in found.layers.layers] == ["layer 0", "layer 1"]
    assert found.to_json()["layers"]["layers"][0]["cosine"] > 0.9  # type: ignore[index]
    swapped = check_output(Path(source), against=str(output), **options)
    assert swapped.language == outcome.language
    assert swapped.notes == (f"{source} is a checkpoint, and so the original here",)


def test_a_threshold_that_is_given_is_judged_by(
    published: tuple[CompileOutcome, Path], evaluation_text: str
) -> None:
    limits = ("gate.kl_divergence=0.000001",)
    found = check_output(published[1], evaluation_text=evaluation_text, overrides=limits, threads=1)
    assert not found.passed


def test_inputs_are_saved_and_the_commands_are_told(
    published: tuple[CompileOutcome, Path], evaluation_text: str, source: str, tmp_path: Path
) -> None:
    found = check_output(
        published[1], evaluation_text=evaluation_text, save_inputs=tmp_path / "in", threads=1
    )
    assert (tmp_path / "in" / "inputs.json").is_file()
    assert found.commands[0].startswith(f"polygraphy run {published[1] / 'model.onnx'} --onnxrt")
    with pytest.raises(OutputError, match="this is a checkpoint"):
        check_output(Path(source), against=source, save_inputs=tmp_path / "no")


def test_a_command_for_the_engine_is_told_or_why_there_is_none(
    published: tuple[CompileOutcome, Path], evaluation_text: str, source: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(published[1], tmp_path / "out")
    (folder / "model.engine").write_bytes(b"engine")
    options: dict[str, Any] = {"against": source, "evaluation_text": evaluation_text, "threads": 1}
    found = check_output(folder, save_inputs=tmp_path / "in", **options)
    assert len(found.commands) == 1
    assert f"engine {folder / 'model.engine'}: no manifest.json" in found.notes[-1]
    profile = Profile(sequence=Range(1, 4, 8), past=Range(0, 4, 8))
    shapes = model_shapes(folder / "model.onnx", profile)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    build = {"edition": "tensorrt-rtx", "logits": "last", "profiles": shapes}
    path.write_text(json.dumps(manifest | {"build": build}))
    found = check_output(folder, save_inputs=tmp_path / "in", **options)
    begin = f"POLYGRAPHY_USE_TENSORRT_RTX=1 polygraphy run {folder / 'model.engine'} --model-type"
    assert found.commands[1].startswith(begin)
    (inputs,) = load_json(str(tmp_path / "in" / "engine_inputs.json"))
    assert inputs["input_ids"].shape == (2, 8)


def test_an_engine_that_cannot_run_here_is_told_and_its_graph_is_compared(
    published: tuple[CompileOutcome, Path],
    evaluation_text: str,
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = shutil.copytree(published[1], tmp_path / "out")
    (folder / "model.engine").write_bytes(b"engine")
    monkeypatch.setattr(recheck, "runnable_here", lambda: "this machine has no driver")
    found = check_output(folder, against=source, evaluation_text=evaluation_text, threads=1)
    assert found.language == published[0].language
    assert found.not_executed == (
        f"The engine model.engine of {folder} was not run: this machine has no driver. Its graph "
        f"{folder / 'model.onnx'} was compared, on ONNX Runtime.",
    )


def test_a_decoder_and_an_encoder_are_not_compared(
    source: str, encoder: Any, evaluation_text: str
) -> None:
    with pytest.raises(OutputError, match="is an encoder, which gives vectors"):
        check_output(
            Path(encoder.checkpoint.source), against=source, evaluation_text=evaluation_text
        )
