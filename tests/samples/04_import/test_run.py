"""The sample runs as its README says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from castline.compiler.pipeline import compile_model
from castline.compiler.recipes.load import load_recipe

SAMPLE = "04_import"


def test_says_how_codes_are_stored_and_that_none_changed(
    tiny_model: Path, run_sample: Any, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="the sample compiles for ONNX Runtime")
    compile_model(
        str(tiny_model),
        tmp_path / "quantized",
        recipe=load_recipe("w4a16-rtn"),
        target="huggingface",
        gate=False,
    )
    done = run_sample(SAMPLE, tmp_path / "quantized", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "14 linears: 4 bits, groups of 32, zero-points" in done.stdout
    assert "stored codes are carried over unchanged" in done.stdout


def test_says_that_a_float_checkpoint_stores_no_codes(
    tiny_model: Path, run_sample: Any, tmp_path: Path
) -> None:
    done = run_sample(SAMPLE, tiny_model, tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "has none" in done.stderr
