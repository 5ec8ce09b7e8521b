from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from castline.compiler.package.manifest import write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weight = numpy_helper.from_array(np.ones((8, 50), np.float32), "lm_head.weight")
    node = helper.make_node("MatMul", ["x", "lm_head.weight"], ["logits"])
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8])
        for name in ("x", *(f"past_key_values.{i}.key" for i in range(9)))
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 50])
    graph = helper.make_graph([node], "g", inputs, [output], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(
        model,
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    (tmp_path / "model.engine").write_bytes(b"\x00" * 2000)
    write_manifest(tmp_path, {"source": "m.gguf", "recipe": {"name": "float"}, "target": "onnx"})
    return tmp_path


def test_shows_what_a_folder_holds(run: Any, folder: Path) -> None:
    result = run("inspect", folder)
    assert result.exit_code == 0, result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "source: m.gguf" in lines
    assert "recipe: float" in lines
    assert "IR 10, opsets ai.onnx 21" in lines
    assert "ai.onnx: 1 nodes: MatMul 1" in lines
    assert any(line.endswith("past_key_values.2.key float [1, 8] and 6 more") for line in lines)
    assert "head 400 1.6 kB 32" in lines
    assert f"{folder}/model.engine: engine, 2 kB" in lines


def test_json_has_the_manifest_and_the_graphs(run: Any, folder: Path) -> None:
    document = json.loads(run("inspect", folder, "--json").stdout)
    assert document["manifest"]["target"] == "onnx"
    assert document["graphs"][0]["parameters"] == 400
    assert json.loads(run("inspect", folder / "model.onnx", "--json").stdout)["manifest"] is None


def test_missing_weights_are_an_error_after_the_facts(run: Any, folder: Path) -> None:
    (folder / "model.onnx.data").unlink()
    result = run("inspect", folder)
    assert result.exit_code == 1
    assert "weights in model.onnx.data: missing" in result.stdout
    assert result.stderr == f"error: {folder}/model.onnx.data is missing\n"


def test_what_is_no_model_is_refused_in_words(run: Any, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("hello")
    result = run("inspect", tmp_path / "model.onnx")
    assert result.exit_code == 1
    assert "expected an ONNX model" in result.stderr
