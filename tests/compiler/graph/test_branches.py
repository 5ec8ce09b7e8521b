"""Nodes that read weights alone are told from the rest, and the rest can be copied."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.graph.branches import copied_node, has_subgraphs, weight_nodes


@pytest.fixture
def model() -> ir.Model:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        scaled (float[S, 2] x) => (float[S, 2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}> {
            doubled = Add (w, w)
            both = Mul (doubled, v)
            positive = Relu (x)
            y = Mul (positive, both)
        }
    """)
    for node, name in zip(model.graph, ("add", "both", "relu", "mul"), strict=True):
        node.name = name
    return model


def test_what_depends_on_weights_alone_is_found_through_other_such_nodes(model: ir.Model) -> None:
    assert {node.name for node in weight_nodes(model.graph)} == {"add", "both"}


def test_a_copy_reads_copies_and_what_has_none_itself(model: ir.Model) -> None:
    _, both, relu, mul = model.graph
    copies: dict[ir.Value, ir.Value] = {}
    relu_copy, mul_copy = (copied_node(node, copies) for node in (relu, mul))
    assert relu_copy.inputs[0] is model.graph.inputs[0]
    assert mul_copy.inputs == (relu_copy.outputs[0], both.outputs[0])
    assert copies[mul.outputs[0]] is mul_copy.outputs[0]
    assert (mul_copy.name, mul_copy.outputs[0].name) == ("mul", "y")
    assert mul_copy.outputs[0].shape == mul.outputs[0].shape


def test_nodes_with_graphs_of_their_own_are_seen(model: ir.Model) -> None:
    assert not has_subgraphs(model.graph)
    inner = ir.Graph([], [], nodes=[ir.node("Constant", [], {"value_int": 1})], name="inner")
    true = ir.Value(name="true", const_value=ir.Tensor(np.array(True), name="true"))
    model.graph.initializers.add(true)
    branches = [ir.AttrGraph(name, inner) for name in ("then_branch", "else_branch")]
    choice = ir.Node("", "If", [true], branches, num_outputs=1)
    model.graph.append(choice)
    assert has_subgraphs(model.graph)
    assert choice not in weight_nodes(model.graph)
