from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.errors import UnsupportedArchitectureError
from castline.exporters.template import (
    LayerTemplate,
    at_layer,
    check_same_kind,
    scope,
    template,
)

FLOAT = ir.TensorType(ir.DataType.FLOAT)
STACK = "model.layers"


def value(name: str) -> ir.Value:
    return ir.Value(name=name, type=FLOAT, shape=ir.Shape([1]))


def in_scope(node: ir.Node, *paths: str) -> ir.Node:
    node.metadata_props["pkg.torch.onnx.name_scopes"] = str(["", *paths, node.op_type])
    return node


def in_layer(node: ir.Node, layer: int) -> ir.Node:
    return in_scope(node, "m.model", f"m.{STACK}.{layer}")


def layer(
    index: int, *, alpha: float = 1.0, factor: float = 2.0, op: str = "Mul", reads: str = "shared"
) -> LayerTemplate:
    """Return a layer that computes Elu(carry * weight) op factor, then adds what `reads` names."""
    carry = value(f"carry.{index}")
    factor_value = value(f"factor.{index}")
    factor_value.const_value = ir.tensor(np.float32(factor))
    product = ir.node("Mul", [carry, value(f"{STACK}.{index}.weight")], name="product")
    elu = ir.node("Elu", product.outputs, {"alpha": alpha}, name="elu")
    scaled = ir.node(op, [elu.outputs[0], factor_value], name="scaled")
    added = ir.node("Add", [scaled.outputs[0], SHARED[reads]], name="added")
    return LayerTemplate(index, (product, elu, scaled, added), carry, added.outputs[0])


SHARED = {name: value(name) for name in ("shared", "other")}


def test_layers_may_differ_in_weights_and_input() -> None:
    check_same_kind(layer(0), layer(1), STACK)


@pytest.mark.parametrize(
    ("difference", "told"),
    [
        ({"alpha": 0.5}, "attributes of Elu elu differ"),
        ({"factor": 3.0}, "Mul scaled reads factor.0 against factor.1"),
        ({"op": "Sub"}, "their operations differ"),
        ({"reads": "other"}, "Add added reads shared against other"),
    ],
)
def test_refuses_layers_that_differ_in_the_graph_alone(
    difference: dict[str, Any], told: str
) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=f"Layers 0 and 1 .* {told}"):
        check_same_kind(layer(0), layer(1, **difference), STACK)


def test_refuses_a_weight_of_another_name() -> None:
    other = layer(1)
    other.nodes[0].inputs[1].name = f"{STACK}.1.bias"  # type: ignore[union-attr]
    with pytest.raises(UnsupportedArchitectureError, match=r"reads .*0\.weight against .*1\.bias"):
        check_same_kind(layer(0), other, STACK)


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("model.layers.1.mlp.weight", "model.layers.12.mlp.weight"),
        ("past_key_values.1.key", "past_key_values.12.key"),
        ("present.1.value", "present.12.value"),
        ("model.layers.11.mlp.weight", "model.layers.11.mlp.weight"),
        ("model.norm.weight", "model.norm.weight"),
    ],
)
def test_renames_what_belongs_to_the_layer(name: str, there: str) -> None:
    assert at_layer(name, STACK, 1, 12) == there


def test_scope_is_the_path_of_modules() -> None:
    node = in_layer(ir.node("Relu", [value("x")]), 3)
    assert scope(node) == ("model", "model.layers.3")
    assert scope(ir.node("Relu", [value("x")])) == ()


def decoder_graph(*, carries: int = 1) -> ir.Model:
    """Return two layers, each a Split without metadata whose halves are added to a shared value."""
    tokens, mask, positions = (
        ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["b", "s"]))
        for name in ("input_ids", "attention_mask", "position_ids")
    )
    table = value("model.embed.weight")
    past = [value(f"past_key_values.{i}.key") for i in range(2)]
    embed = in_scope(ir.node("Gather", [table, tokens]), "m.model", "m.model.embed")
    # Traced in layer 0, but the same for every layer.
    shared = in_layer(ir.node("Cast", [positions], {"to": ir.DataType.FLOAT}), 0)
    size = in_layer(ir.node("Shape", [past[1]], {"start": 2, "end": 3}), 0)
    length = in_layer(ir.node("Cast", size.outputs, {"to": ir.DataType.FLOAT}), 0)
    nodes = [embed, shared, size, length]
    hidden = embed.outputs[0]
    presents = []
    extra: list[ir.Value] = []
    for i in range(2):
        split = ir.node("Split", [hidden], {"axis": 0, "num_outputs": 2}, num_outputs=2)
        cached = in_layer(ir.node("Add", [past[i], split.outputs[0]]), i)
        joined = in_layer(ir.node("Add", [split.outputs[1], shared.outputs[0]]), i)
        if i and carries == 2:
            joined = in_layer(ir.node("Sum", [joined.outputs[0], *extra]), i)
            nodes.append(joined.inputs[0].producer())  # type: ignore[union-attr]
        sized = in_layer(ir.node("Add", [joined.outputs[0], length.outputs[0]]), i)
        nodes += [split, cached, joined, sized]
        hidden = sized.outputs[0]
        extra = [cached.outputs[0]]
        cached.outputs[0].name = f"present.{i}.key"
        presents.append(cached.outputs[0])
    head = in_scope(ir.node("Identity", [hidden]), "m.lm_head")
    head.outputs[0].name = "logits"
    graph = ir.Graph(
        [tokens, mask, positions, *past, table],
        [head.outputs[0], *presents],
        nodes=[*nodes, head],
        opset_imports={"": 23},
    )
    graph.sort()
    return ir.Model(graph, ir_version=10)


def test_takes_a_decoder_apart() -> None:
    parts = template(decoder_graph(), STACK, 2)
    assert [[n.op_type for n in part.nodes] for part in parts.layers] == [
        ["Split", "Add", "Add", "Add"]
    ] * 2
    assert [n.op_type for n in parts.epilogue] == ["Identity"]
    assert parts.layers[0].carry_in.producer().op_type == "Gather"  # type: ignore[union-attr]
    assert parts.layers[1].carry_in is parts.layers[0].carry_out
    check_same_kind(*parts.layers, STACK)


def test_every_node_is_in_one_part() -> None:
    parts = template(decoder_graph(), STACK, 2)
    nodes = [*parts.prologue, *parts.epilogue, *(n for part in parts.layers for n in part.nodes)]
    assert len(nodes) == len(set(nodes)) == len(parts.model.graph)


def test_sizes_come_from_the_tokens_and_not_from_a_cache() -> None:
    model = decoder_graph()
    template(model, STACK, 2)
    read = {node.inputs[0].name for node in model.graph if node.op_type == "Shape"}  # type: ignore[union-attr]
    assert read == {"input_ids", "attention_mask"}


def test_refuses_a_second_value_handed_from_layer_to_layer() -> None:
    with pytest.raises(UnsupportedArchitectureError, match="exactly one hidden state"):
        template(decoder_graph(carries=2), STACK, 2)


def test_refuses_to_guess_what_another_cache_axis_means() -> None:
    model = decoder_graph()
    shape = next(node for node in model.graph if node.op_type == "Shape")
    shape.attributes["start"] = ir.AttrInt64("start", 1)
    shape.attributes["end"] = ir.AttrInt64("end", 2)
    with pytest.raises(UnsupportedArchitectureError, match=r"shape of past_key_values\.1\.key"):
        template(model, STACK, 2)
