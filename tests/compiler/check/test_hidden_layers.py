"""Layers are compared alike in torch and in graphs, and the first that diverges is named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.check.hidden_layers import (
    LayerFigures,
    compare_layers,
    graph_layers,
    marked_copy,
    torch_layers,
)
from castline.compiler.check.original import OriginalModel
from castline.compiler.check.tensors import TensorFigure
from castline.errors import OutputError
from castline.exporters.checkpoint import open_checkpoint

FEED = {
    "input_ids": np.arange(20, dtype=np.int64).reshape(2, 10) + 3,
    "attention_mask": np.ones((2, 10), np.int64),
}


def figures(*layers: tuple[float, float]) -> LayerFigures:
    return LayerFigures(tuple(TensorFigure(f"layer {i}", *one) for i, one in enumerate(layers)))


def test_torch_and_the_exported_graph_hand_on_the_same(tiny: Any, exported: Path) -> None:
    original = torch_layers(OriginalModel.load(tiny("llama").checkpoint))
    with graph_layers(exported / "model.onnx", 1) as run:
        found = compare_layers(original, run, FEED)
    assert [figure.name for figure in found.layers] == ["layer 0", "layer 1"]
    assert all(figure.relative_error < 1e-5 for figure in found.layers)
    assert found.first_to_diverge is None


def test_lowered_layers_are_off_by_what_quantization_does(exported: Path, quantized: Path) -> None:
    with (
        graph_layers(exported / "model.onnx", 1) as original,
        graph_layers(quantized / "model.onnx", 1) as result,
    ):
        found = compare_layers(original, result, FEED)
    first, second = (figure.relative_error for figure in found.layers)
    assert 0.01 < first < second < 0.5


def test_a_damaged_layer_is_the_first_to_diverge(
    source: str, exported: Path, tmp_path: Path, copy_with: Any
) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    other = copy_with(source, tmp_path / "other", name, lambda array: array.fill(0))
    damaged = torch_layers(OriginalModel.load(open_checkpoint(other)))
    with graph_layers(exported / "model.onnx", 1) as original:
        found = compare_layers(original, damaged, FEED)
    assert found.layers[0].relative_error < 1e-5
    assert found.first_to_diverge == found.layers[1]


@pytest.mark.parametrize(
    ("layers", "first"),
    [
        ([(0.01, 0.999), (0.02, 0.999)], None),
        ([(0.01, 0.999), (0.06, 0.999)], "layer 1"),  # six times the one before
        ([(0.001, 0.999), (0.04, 0.999)], None),  # forty times, but small
        ([(0.3, 0.99), (0.4, 0.97), (0.5, 0.9)], "layer 1"),
        ([(0.3, 0.97)], "layer 0"),
        ([(0.01, 0.999), (math.nan, math.nan)], "layer 1"),
    ],
)
def test_the_criterion(layers: list[tuple[float, float]], first: str | None) -> None:
    found = figures(*layers).first_to_diverge
    assert (found and found.name) == first


def test_a_copy_leaves_the_folder_as_it_is_and_its_weights_where_they_are(exported: Path) -> None:
    before = sorted(path.name for path in exported.iterdir())
    with marked_copy(exported / "model.onnx") as marked:
        assert marked.parent != exported
        assert (marked.parent / "model.onnx.data").samefile(exported / "model.onnx.data") or (
            marked.parent.stat().st_dev != exported.stat().st_dev
        )
    assert sorted(path.name for path in exported.iterdir()) == before
    assert not marked.exists()


def test_a_graph_without_layers_is_refused(written: Any) -> None:
    graph = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[1] x) => (float[1] y) { y = Neg (x) }'
    )
    with pytest.raises(OutputError, match="no layer is found"), marked_copy(written(graph)):
        pass
