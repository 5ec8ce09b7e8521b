"""The sample runs as its README says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SAMPLE = "01_compile_and_generate"


def test_compiles_and_continues_a_text(tiny_model: Path, run_sample: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the sample compiles for ONNX Runtime")
    done = run_sample(SAMPLE, tiny_model, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout
    assert "It is a truth universally acknowledged, that" in done.stdout
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_says_what_is_wrong_in_a_sentence(run_sample: Any, tmp_path: Path) -> None:
    done = run_sample(SAMPLE, tmp_path / "absent", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
