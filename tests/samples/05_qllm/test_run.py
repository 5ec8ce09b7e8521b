"""The sample runs as its README says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

SAMPLE = "05_qllm"
SMALL = ("calibration.length=64", "calibration.samples=2", "correction.epochs=1")
UNFOLDED = "smoothing.sites=[value]"  # leaves the outlier to QLLM
OUTLIER, FACTOR = 3, 40.0


@pytest.fixture
def outlier_model(tiny_model: Path) -> Path:
    """Return the tiny model with one large channel behind its first norm; its function stays."""
    model = LlamaForCausalLM.from_pretrained(tiny_model)
    layer = model.model.layers[0]
    with torch.no_grad():
        layer.input_layernorm.weight[OUTLIER] *= FACTOR
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            linear.weight[:, OUTLIER] /= FACTOR
    model.save_pretrained(tiny_model)
    return tiny_model


def test_shows_what_was_reassembled_and_learned_and_compiles_it(
    outlier_model: Path, run_sample: Any, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="the sample compiles for ONNX Runtime")
    out = tmp_path / "out"
    done = run_sample(SAMPLE, outlier_model, out, *SMALL, UNFOLDED)
    assert done.returncode == 0, done.stderr
    assert "channels reassembled at 0" not in done.stdout
    assert re.search(r": 1 channels apart by \S+, \d+ merged, error \S+% before", done.stdout)
    assert re.search(r"blocks 0 to 1: error \S+%, corrected \S+%, in codes \S+%", done.stdout)
    assert "onnxruntime: perplexity " in done.stdout
    assert {path.name for path in out.iterdir()} == {"plan", "onnxruntime"}


def test_says_what_is_wrong_in_a_sentence(run_sample: Any, tmp_path: Path) -> None:
    done = run_sample(SAMPLE, tmp_path / "absent", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
