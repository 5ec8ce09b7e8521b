"""Read the graph of a saved ONNX file and leave its weights where they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from castline.compiler.passes.fixed_cache import FixedCache
from castline.compiler.targets.context import note_capacity
from castline.compiler.targets.tensorrt.reading import (
    all_nodes,
    external_files,
    node_name,
    plugin_nodes,
    read_graph,
    read_proto,
)
from castline.errors import TargetError


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"absent\.onnx: no such file"):
        read_proto(tmp_path / "absent.onnx")


def test_a_file_that_is_not_onnx_is_named(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\xff\xfe these are no protobuf fields")
    with pytest.raises(TargetError, match=r"garbage\.onnx: not an ONNX file"):
        read_proto(garbage)


def test_a_missing_weight_file_is_named(save_linear: Callable[..., Path]) -> None:
    model = save_linear(external=True)
    (model.parent / "model.onnx.data").unlink()
    with pytest.raises(TargetError, match=r"weight file model\.onnx\.data is missing"):
        read_proto(model)


def test_weights_stay_references(save_linear: Callable[..., Path]) -> None:
    proto = read_proto(save_linear(external=True))
    assert external_files(proto) == ("model.onnx.data",)
    assert not any(tensor.raw_data for tensor in proto.graph.initializer)


def test_types_left_out_are_inferred(save_attention: Callable[..., Path]) -> None:
    nodes = {node.name: node for node in all_nodes(read_graph(save_attention()))}
    assert nodes["layers.0.attention"].inputs[0].dtype == ir.DataType.FLOAT16


def test_nodes_of_subgraphs_are_found(save_graph: Callable[..., Path]) -> None:
    inner = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["inner"], "inside")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [2])],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model = save_graph(
        [node], [("c", TensorProto.BOOL, []), ("x", TensorProto.FLOAT, [2])],
        [("y", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    names = [node_name(node) for node in all_nodes(read_graph(model))]
    assert names == ["the node that computes y", "inside", "inside"]


def test_nodes_of_plugins_are_found_by_name(
    save_packed: Callable[..., Path], save_offsets: Callable[..., Path]
) -> None:
    assert plugin_nodes(save_packed()) == {"proj": "PackedLinearW4A16"}
    assert plugin_nodes(save_offsets()) == {}, "their bodies are taken"


def test_an_open_capacity_is_the_one_that_is_noted(
    tiny: Callable[[str], Any], written: Callable[[ir.Model], Path]
) -> None:
    model = tiny("llama").model()
    FixedCache()(model)
    opened = written(model)
    note_capacity(model, 48)
    for path, capacity in ((opened, "cache_capacity"), (written(model), 48)):
        shapes = {v.name: v.shape for v in read_graph(path).graph.inputs}
        past = shapes["past_key_values.0.key"]
        assert past is not None
        assert past[2] == capacity
