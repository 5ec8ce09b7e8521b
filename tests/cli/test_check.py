from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.check.encoding import EncodingFigures
from castline.compiler.check.hidden_layers import LayerFigures
from castline.compiler.package.manifest import write_manifest
from castline.compiler.report.outcome import CheckOutcome


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    write_manifest(tmp_path, {})
    return tmp_path


def test_compares_and_shows_the_verdict(run: Any, pipeline: Any, folder: Path) -> None:
    result = run("check", folder, "--against", "model.gguf", "--threads", "1")
    assert result.exit_code == 0, result.stderr
    assert pipeline.asked["against"] == "model.gguf"
    assert pipeline.asked["threads"] == 1
    assert "gate: passed" in result.stdout


def test_shows_what_was_never_executed(run: Any, pipeline: Any, folder: Path) -> None:
    pipeline.not_executed = ("The engine was built but not executed.",)
    assert "not executed: The engine was built" in run("check", folder).stdout
    assert json.loads(run("check", folder, "--json").stdout)["not_executed"] == [
        "The engine was built but not executed."
    ]


def test_a_folder_that_is_not_as_written_is_not_even_compared(
    run: Any, pipeline: Any, folder: Path
) -> None:
    (folder / "model.onnx").write_bytes(b"other")
    result = run("check", folder)
    assert (result.exit_code, pipeline.asked) == (1, {})
    assert "model.onnx has other content" in result.stderr


def test_too_far_from_the_original_is_exit_code_3(
    run: Any, pipeline: Any, failed: Any, folder: Path
) -> None:
    pipeline.verdicts = (failed,)
    result = run("check", folder, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["verdicts"][0]["passed"] is False
    assert "too far from the original: top1 agreement. To go on: --bisect finds" in result.stderr
    assert "gate: failed (top1 agreement 0.745, at least 0.9)" in run("check", folder).stdout


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (None, "--layers says where the encoder diverges"),
        (LayerFigures((), "relative error"), "compile it with more bits or smaller groups"),
    ],
)
def test_an_encoder_that_is_too_far_is_not_told_of_what_decoders_have(
    run: Any, pipeline: Any, failed: Any, folder: Path, layers: Any, words: str
) -> None:
    def check_output(output: Path, **_options: Any) -> CheckOutcome:
        encoding = EncodingFigures(0.9, 0.8, 0.3, 0.9, 0.8, 0.7, 64, 512)
        verdict = replace(failed, name="hidden cosine", value=0.9, limit=0.99)
        return CheckOutcome(
            output=output,
            against="model",
            language=None,
            encoding=encoding,
            tensors=None,
            verdicts=(verdict,),
            layers=layers,
            seconds=1.0,
        )

    pipeline.check_output = check_output
    result = run("check", folder)
    assert result.exit_code == 3
    expected = f"error: {folder}: too far from the original: hidden cosine. To go on: {words}.\n"
    assert result.stderr == expected
    assert "perplexity" not in result.stdout
    assert "bisect" not in result.stdout


def test_layers_inputs_and_thresholds_are_passed_on(
    run: Any, pipeline: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    saved = tmp_path_factory.mktemp("saved") / "in"
    arguments = ("--layers", "--save-inputs", saved, "--set", "gate.kl_divergence=0.1")
    result = run("check", folder, *arguments)
    assert result.exit_code == 0, result.stderr
    asked = pipeline.asked
    assert (asked["layers"], asked["save_inputs"]) == (True, saved)
    assert list(asked["overrides"]) == ["gate.kl_divergence=0.1"]


def test_two_models_of_other_origin_need_no_manifest(
    run: Any, pipeline: Any, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert run("check", other, "--against", "model.gguf").exit_code == 0
    assert pipeline.asked["output"] == other
    (folder / "model.onnx").write_bytes(b"other")
    result = run("check", other, "--against", folder)
    assert result.exit_code == 1
    assert "model.onnx has other content" in result.stderr


def test_questions_that_exclude_each_other_are_refused(run: Any, folder: Path) -> None:
    for other in (("--layers",), ("--save-inputs", "in"), ("--tasks", "piqa")):
        result = run("check", folder, "--bisect", *other)
        assert result.exit_code == 2
        assert "in another run" in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--limit", "5"), "--limit would have no effect without --tasks"),
        (("--tasks-folder", "."), "--tasks-folder would have no effect without --tasks"),
        (
            ("--tasks", "piqa", "--set", "gate.kl_divergence=1", "--evaluation-text", "t.txt"),
            "--set and --evaluation-text would have no effect with --tasks",
        ),
    ],
)
def test_options_without_effect_are_wrong_usage(
    run: Any, pipeline: Any, folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = run("check", folder, *arguments)
    assert (result.exit_code, pipeline.asked) == (2, {})
    told = " ".join(result.stderr.replace("\u2502", " ").split())
    assert words in told


def test_inputs_are_saved_in_a_folder_of_their_own(
    run: Any, pipeline: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (file := other / "file").write_text("x")
    for place, words in (
        (folder, "lies in"),
        (folder / "sub", "lies in"),
        (file, "is a file; give --save-inputs a folder"),
    ):
        result = run("check", folder, "--save-inputs", place)
        assert (result.exit_code, pipeline.asked) == (1, {})
        assert words in result.stderr
    assert run("check", folder, "--against", other, "--save-inputs", other / "in").exit_code == 1
