from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from castline.compiler.passes.quantize_embedding import QuantizeEmbedding
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.report.inspection import inspect_path
from castline.compiler.targets.onnxruntime import OnnxRuntime
from castline.compiler.targets.write import write_model
from castline.errors import OutputError


def save_model(path: Path) -> None:
    """An embedding and a head that share a weight, and a norm; weights beside the graph."""
    weight = numpy_helper.from_array(np.ones((50, 8), np.float32), "model.embed_tokens.weight")
    norm = numpy_helper.from_array(np.ones((8,), np.float32), "model.norm.weight")
    nodes = [
        helper.make_node("Gather", ["model.embed_tokens.weight", "input_ids"], ["x"]),
        helper.make_node("Mul", ["x", "model.norm.weight"], ["y"]),
        helper.make_node("Transpose", ["model.embed_tokens.weight"], ["w"], perm=[1, 0]),
        helper.make_node("MatMul", ["y", "w"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", None])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch_size", None, 50])],
        [weight, norm],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], producer_name="me", ir_version=10
    )
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model.onnx")
    return tmp_path


def test_tells_operators_ports_kinds_and_files(folder: Path) -> None:
    (graph,) = inspect_path(folder).graphs
    assert graph.producer == "me"
    assert graph.opsets == {"": 21}
    assert graph.operators == {"": {"Gather": 1, "Mul": 1, "Transpose": 1, "MatMul": 1}}
    assert [(port.name, port.dtype, port.shape) for port in graph.inputs] == [
        ("input_ids", "int64", ("batch_size", "?"))
    ]
    assert [(port.name, port.dtype, port.shape) for port in graph.outputs] == [
        ("logits", "float", ("batch_size", "?", 50))
    ]
    assert [(kind.kind, kind.parameters, kind.bytes) for kind in graph.kinds] == [
        ("embedding", 400, 1600),
        ("norm", 8, 32),
    ]
    assert (graph.parameters, graph.bytes, graph.bits_per_weight) == (408, 1632, 32.0)
    assert graph.dtypes == {"float": 1632}
    (file,) = graph.external
    assert (file.name, file.problem) == ("model.onnx.data", None)
    assert file.bytes is not None
    assert file.bytes >= file.needed >= 1632


def test_needs_no_weights_and_says_that_they_are_missing(folder: Path) -> None:
    (folder / "model.onnx.data").unlink()
    (graph,) = inspect_path(folder / "model.onnx").graphs
    assert graph.parameters == 408
    assert [file.problem for file in graph.external] == ["missing"]


def test_sees_weights_that_are_cut_short(folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes(b"\x00" * 100)
    (file,) = inspect_path(folder).graphs[0].external
    assert file.problem is not None
    assert file.problem.startswith("too short")


def test_two_tensors_at_one_place_are_stored_once(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    twin = TensorProto()
    twin.CopyFrom(model.graph.initializer[0])
    twin.name = "lm_head.weight"
    model.graph.initializer.append(twin)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert inspect_path(folder).graphs[0].bytes == 1632


def test_counts_bits_per_weight_with_scales(tmp_path: Path) -> None:
    codes = helper.make_tensor("mlp.weight", TensorProto.INT4, [2, 32], [0] * 64)
    scales = numpy_helper.from_array(np.ones((2, 1), np.float16), "scales")
    node = helper.make_node(
        "DequantizeLinear", ["mlp.weight", "scales"], ["w"], axis=1, block_size=32
    )
    output = helper.make_tensor_value_info("w", TensorProto.FLOAT16, [2, 32])
    graph = helper.make_graph([node], "g", [], [output], [codes, scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    (inspected,) = inspect_path(tmp_path / "m.onnx").graphs
    assert inspected.bits_per_weight == 4 + 16 / 32
    assert inspected.quantized == {"4 bits, groups of 32, without zero-points": 1}
    assert inspected.external == ()


def test_lists_engines_with_their_size(tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(b"\x00" * 7)
    inspection = inspect_path(tmp_path)
    assert [(engine.path.name, engine.bytes) for engine in inspection.engines] == [
        ("model.engine", 7)
    ]
    assert inspect_path(tmp_path / "model.engine").engines == inspection.engines


def test_turns_into_json(folder: Path) -> None:
    document = json.loads(json.dumps(inspect_path(folder).to_json()))
    assert document["graphs"][0]["inputs"][0]["shape"] == ["batch_size", "?"]
    assert document["graphs"][0]["path"] == str(folder / "model.onnx")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"not a graph at all", b"\x00" * 64], ids=["empty", "json", "text", "0"]
)
def test_says_in_words_what_is_no_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(OutputError, match=r"model\.onnx: expected an ONNX model"):
        inspect_path(tmp_path)


def test_a_graph_cut_short_is_no_onnx(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OutputError, match="cut short"):
        inspect_path(path)


def test_a_missing_path_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        inspect_path(tmp_path / "none")
    with pytest.raises(OutputError, match=r"has no \.onnx file and no engine"):
        inspect_path(tmp_path)


def test_tables_of_positions_are_no_weights(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    model = tiny("tied").model()
    QuantizeEmbedding(WeightScheme(8, 32, True))(model)
    QuantizeWeights(WeightScheme(4, 32, False))(model)
    OnnxRuntime().lower(model, 512)
    write_model(model, tmp_path)
    (graph,) = inspect_path(tmp_path).graphs
    tensors = tiny("tied").checkpoint.tensors
    table = tensors["model.embed_tokens.weight"].size
    # The lookup reads codes and the tied head the floats, so the table is there in both forms.
    assert graph.parameters == sum(spec.size for spec in tensors.values()) + table
