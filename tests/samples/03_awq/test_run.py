"""The sample runs as its README says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SAMPLE = "03_awq"


def test_one_plan_is_used_for_a_graph_and_for_a_checkpoint(
    tiny_model: Path, run_sample: Any, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="the sample compiles for ONNX Runtime")
    out = tmp_path / "out"
    done = run_sample(SAMPLE, tiny_model, out, "calibration.length=64", "calibration.samples=2")
    assert done.returncode == 0, done.stderr
    assert "takes the error of self_attn from " in done.stdout
    assert "onnxruntime: " in done.stdout
    assert "huggingface: " in done.stdout
    assert {path.name for path in out.iterdir()} == {"plan", "onnxruntime", "huggingface"}
