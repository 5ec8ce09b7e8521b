from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.package.manifest import write_manifest


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
    assert "too far from the original: top1 agreement" in result.stderr
    assert "gate: failed (top1 agreement 0.745, at least 0.9)" in run("check", folder).stdout
