"""Logits of the last token are held to those of all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from castline.compiler.check.last_logits import require_last_logits
from castline.compiler.targets.last_logits import LAST_TOKEN, keep_last_logits
from castline.compiler.targets.write import DATA, MODEL
from castline.errors import GateFailedError

WINDOWS = np.random.default_rng(0).integers(0, 150, (3, 20))


@pytest.fixture
def cut(tiny: Callable[[str], Any], tmp_path: Path) -> Path:
    for name in (MODEL, DATA):
        shutil.copy(tiny("llama").graph.with_name(name), tmp_path / name)
    keep_last_logits(tmp_path / MODEL)
    return tmp_path


def test_the_same_row_passes(cut: Path) -> None:
    assert require_last_logits(cut, WINDOWS, 1) <= 1e-6


def test_another_row_is_refused(cut: Path) -> None:
    proto = onnx.load(cut / MODEL, load_external_data=False)
    for tensor in proto.graph.initializer:
        if tensor.name in (f"{LAST_TOKEN}/start", f"{LAST_TOKEN}/end"):
            moved = -2 if tensor.name.endswith("start") else -1
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([moved]), tensor.name))
    onnx.save(proto, cut / MODEL)
    with pytest.raises(GateFailedError, match=r"differ by .* must be at most 1e-05"):
        require_last_logits(cut, WINDOWS, 1)


def test_a_model_that_was_not_cut_is_refused(tiny: Callable[[str], Any]) -> None:
    with pytest.raises(GateFailedError, match=r"cut to \(1, 1, 160\).* gives \(1, 20, 160\)"):
        require_last_logits(tiny("llama").graph.parent, WINDOWS, 1)
