"""The sample runs as its README says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SAMPLE = "02_smoothquant"


def test_one_plan_is_compiled_for_two_targets(
    tiny_model: Path, run_sample: Any, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="the sample compiles for ONNX Runtime")
    out = tmp_path / "out"
    done = run_sample(SAMPLE, tiny_model, out, "calibration.length=64", "calibration.samples=2")
    assert done.returncode == 0, done.stderr
    assert "14 linears quantized, scales folded at " in done.stdout
    assert "onnx: perplexity " in done.stdout
    assert "onnxruntime: perplexity " in done.stdout
    assert {path.name for path in out.iterdir()} == {"plan", "onnx", "onnxruntime"}
    assert (out / "onnx" / "plan" / "plan.json").read_bytes() == (
        out / "plan" / "plan.json"
    ).read_bytes()


def test_says_what_is_wrong_in_a_sentence(run_sample: Any, tmp_path: Path) -> None:
    done = run_sample(SAMPLE, tmp_path / "absent", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
