"""List what TensorRT-RTX would refuse in a graph, before any time is spent on building it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from castline.compiler.targets.tensorrt.refusals import Finding, grouped, refusals, remarks
from castline.plugins.linear_w8a8.op import LINEAR_W8A8
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS

SaveLinear = Callable[..., Path]
SaveAttention = Callable[..., Path]
SaveGraph = Callable[..., Path]


@pytest.mark.parametrize("external", [False, True])
def test_symmetric_int4_is_accepted(save_linear: SaveLinear, external: bool) -> None:
    model = save_linear(block=32, external=external)
    assert refusals(model) == ()
    assert remarks(model) == ()


@pytest.mark.parametrize("external", [False, True])
def test_zero_points_that_are_zero_are_accepted(save_linear: SaveLinear, external: bool) -> None:
    assert refusals(save_linear(block=32, zero_points=[0], external=external)) == ()


@pytest.mark.parametrize("external", [False, True])
def test_one_zero_point_that_is_not_zero_is_refused(
    save_linear: SaveLinear, external: bool
) -> None:
    (refusal,) = refusals(save_linear(block=32, zero_points=[0, 0, 3], external=external))
    assert refusal.node == "proj/dequantize"
    assert refusal.operator == "DequantizeLinear"
    assert "zero points are not zero" in refusal.reason


def test_a_computed_zero_point_is_refused(save_linear: SaveLinear) -> None:
    path = save_linear(block=32, zero_points=[0])
    model = onnx.load(path)
    model.graph.node.insert(0, helper.make_node("Identity", ["proj.zero"], ["moved"]))
    model.graph.node[1].input[2] = "moved"
    onnx.save(model, path)
    (refusal,) = refusals(path)
    assert "computed in the graph" in refusal.reason


def test_uint4_weights_are_refused_by_name(save_linear: SaveLinear) -> None:
    (refusal,) = refusals(save_linear(block=32, weight_type=TensorProto.UINT4))
    assert refusal.node == "proj/dequantize"
    assert "proj.weight" in refusal.reason


@pytest.mark.parametrize(
    "operator", ["MatMulNBits", "GroupQueryAttention", "QuickGelu", "SkipLayerNormalization"]
)
def test_operators_of_onnx_runtime_are_refused(save_graph: SaveGraph, operator: str) -> None:
    node = helper.make_node(operator, ["x"], ["y"], "layers.0.op", domain="com.microsoft")
    model = save_graph([node], [("x", TensorProto.FLOAT16, [2])], [("y", TensorProto.FLOAT16, [2])])
    (refusal,) = refusals(model)
    assert (refusal.node, refusal.operator) == ("layers.0.op", operator)


def test_a_function_that_the_model_defines_is_accepted(save_graph: SaveGraph) -> None:
    node = helper.make_node("Twice", ["x"], ["y"], "twice", domain="com.microsoft")
    path = save_graph([node], [("x", TensorProto.FLOAT16, [2])], [("y", TensorProto.FLOAT16, [2])])
    model = onnx.load(path)
    body = [helper.make_node("Add", ["x", "x"], ["y"])]
    opsets = [helper.make_opsetid("", 23)]
    function = helper.make_function("com.microsoft", "Twice", ["x"], ["y"], body, opsets)
    model.functions.append(function)
    onnx.save(model, path)
    assert refusals(path) == ()


def test_int8_at_run_time_is_refused(save_graph: SaveGraph) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], "quantize"),
        helper.make_node("MatMulInteger", ["q", "w"], ["y"], "multiply"),
    ]
    model = save_graph(
        nodes,
        [("x", TensorProto.FLOAT, [2, 2]), ("w", TensorProto.INT8, [2, 2])],
        [("y", TensorProto.INT32, [2, 2])],
    )
    assert [refusal.node for refusal in refusals(model)] == ["quantize", "multiply"]


def test_our_ops_are_refused_by_name_and_not_by_what_they_are_made_of(
    save_graph: SaveGraph,
) -> None:
    inputs = ["codes", "scale", "w", "w.scale"]
    node = helper.make_node("LinearW8A8", inputs, ["y"], "proj", domain="castline")
    types = (TensorProto.INT8, TensorProto.FLOAT, TensorProto.INT8, TensorProto.FLOAT)
    shapes = ([2, 2], [2, 1], [2, 2], [2])
    path = save_graph(
        [node], list(zip(inputs, types, shapes, strict=True)), [("y", TensorProto.FLOAT, [2, 2])]
    )
    model = ir.load(path)
    LINEAR_W8A8.define_in(model)
    ir.save(model, path)
    (refusal,) = refusals(path)
    assert (refusal.node, refusal.operator) == ("proj", "LinearW8A8")
    assert "products of codes have packed weights" in refusal.reason


def test_ops_of_plugins_are_taken(save_graph: SaveGraph) -> None:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23, "castline" : 1]>
        g (float[T, 2] x, int64[2] gather, float[2] scale, int64[0] none, float[0] no_scale)
            => (float[T, 2] y)
        { y = castline.ReassembleChannels (x, gather, scale, none, none, no_scale) }
    """)
    model.graph[0].name = "norm/reassembled"
    REASSEMBLE_CHANNELS.define_in(model)
    path = save_graph([], [], [("y", TensorProto.FLOAT, [2])])
    ir.save(model, path)
    assert refusals(path) == ()


@pytest.mark.parametrize(
    ("grouped", "weight_type", "remarked"),
    [
        (False, TensorProto.INT8, False),
        (True, TensorProto.INT8, True),
        (True, TensorProto.INT4, True),
    ],
)
def test_weights_that_quantized_activations_expand_are_remarked(
    save_linear: SaveLinear, grouped: bool, weight_type: int, remarked: bool
) -> None:
    path = save_linear(block=32, weight_type=weight_type)
    assert remarks(path) == ()
    model = onnx.load(path)
    if not grouped:
        per_tensor = onnx.numpy_helper.from_array(np.array(0.5, np.float16), "proj.scale")
        model.graph.initializer[1].CopyFrom(per_tensor)
        del model.graph.node[0].attribute[:]
    grid = ["grid.scale", "grid.zero"]
    model.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.array(0.1, np.float16), grid[0]),
            onnx.numpy_helper.from_array(np.array(0, np.int8), grid[1]),
        ]
    )
    quantize = helper.make_node("QuantizeLinear", ["inputs_embeds", *grid], ["codes"], "quantize")
    back = helper.make_node("DequantizeLinear", ["codes", *grid], ["rounded"], "back")
    model.graph.node[-1].input[0] = "rounded"
    for position, node in enumerate((quantize, back)):
        model.graph.node.insert(position, node)
    onnx.save(model, path)
    assert refusals(path) == ()
    assert [remark.node for remark in remarks(path)] == ["proj"] * remarked


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_16_bit_attention_with_its_cache_outside_is_accepted(
    save_attention: SaveAttention, dtype: int
) -> None:
    assert refusals(save_attention(dtype)) == ()


def test_attention_that_gives_its_cache_out_is_refused(save_attention: SaveAttention) -> None:
    (refusal,) = refusals(save_attention(outputs=3))
    assert refusal.node == "layers.0.attention"
    assert "only one output" in refusal.reason


def test_float32_attention_is_refused_until_it_is_marked(save_attention: SaveAttention) -> None:
    (refusal,) = refusals(save_attention(TensorProto.FLOAT))
    assert "float32" in refusal.reason
    assert refusals(save_attention(TensorProto.FLOAT, marked=True)) == ()


@pytest.mark.parametrize(("block", "remarked"), [(16, True), (32, False), (64, False)])
def test_unusual_int4_blocks_are_remarked_but_not_refused(
    save_linear: SaveLinear, block: int, remarked: bool
) -> None:
    model = save_linear(block=block)
    assert refusals(model) == ()
    assert [remark.node for remark in remarks(model)] == ["proj/dequantize"] * remarked


def test_many_nodes_with_one_reason_make_one_line() -> None:
    findings = [Finding(f"n{index}", "Op", "because") for index in range(10)]
    lines = grouped([*findings, Finding("other", "Op", "for another reason")])
    assert lines == (
        "n0, n1, n2, n3, n4, n5, n6, n7 and 2 more (Op): because",
        "other (Op): for another reason",
    )


@pytest.mark.parametrize(("block", "remarked"), [(32, False), (16, True)])
def test_products_with_offsets_are_taken_and_their_blocks_remarked(
    save_offsets: Callable[..., Path], block: int, remarked: bool
) -> None:
    model = save_offsets(block=block)
    assert refusals(model) == ()
    found = remarks(model)
    assert [remark.node for remark in found] == ["first", "second"] * remarked
    assert all(f"int4 blocks of {block} may be" in remark.reason for remark in found)


def test_products_with_offsets_of_quantized_activations_are_remarked(
    save_offsets: Callable[..., Path],
) -> None:
    path = save_offsets()
    model = ir.load(path)
    x, node = model.graph.inputs[0], model.graph[0]
    scale = ir.Value(name="s", const_value=ir.Tensor(np.array(0.5, np.float16), name="s"))
    model.graph.initializers.add(scale)
    quantize = ir.node("QuantizeLinear", [x, scale])
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale])
    model.graph.insert_before(node, [quantize, dequantize])
    node.replace_input_with(0, dequantize.outputs[0])
    ir.save(model, path)
    (remark,) = remarks(path)
    assert remark.node == "first"
    assert "weights in groups or of 4 bits are expanded to 16 bits" in remark.reason
