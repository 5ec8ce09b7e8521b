"""One file holds two graphs, and the number of tokens says which of them runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.graph.branches import copied_node
from castline.compiler.passes.choose_by_tokens import ChooseByTokens

Write = Callable[[ir.Model], Path]


def embedded() -> ir.Model:
    """Return y = (w + w)[input_ids] and its negative, of which the first sum is of weights."""
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        embedded (int64[B, S] input_ids) => (float[B, S, 1] y, float[B, S, 1] z)
        <float[3, 1] w = {1, 2, 3}> {
            doubled = Add (w, w)
            y = Gather (doubled, input_ids)
            z = Neg (y)
        }
    """)
    for node in model.graph:
        node.name = f"/{node.op_type}"
    return model


def with_absolute_values(model: ir.Model) -> ir.Graph:
    """Return the graph again, with Abs in the place of Neg."""
    copies: dict[ir.Value, ir.Value] = {}
    nodes = [copied_node(node, copies) for node in list(model.graph)[1:]]
    absolute = ir.node("Abs", [nodes[1].inputs[0]], name="/Abs")
    absolute.outputs[0].name = "z"
    outputs = [nodes[0].outputs[0], absolute.outputs[0]]
    return ir.Graph([], outputs, nodes=[nodes[0], absolute], name="absolute")


@pytest.mark.parametrize(
    ("shape", "few"), [((1, 1), True), ((1, 4), True), ((2, 2), True), ((1, 5), False), ((3, 2), 0)]
)
def test_all_tokens_of_all_sequences_count(
    written: Write, shape: tuple[int, int], few: bool
) -> None:
    model = embedded()
    ChooseByTokens(with_absolute_values(model))(model)
    session = onnxruntime.InferenceSession(written(model), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["y", "z"]
    y, z = session.run(None, {"input_ids": np.full(shape, 2, np.int64)})
    assert (y == np.full((*shape, 1), 6)).all()
    assert (z == (y if few else -y)).all()


def test_weights_and_what_reads_them_alone_stay_outside(written: Write) -> None:
    model = embedded()
    ChooseByTokens(with_absolute_values(model))(model)
    assert [node.op_type for node in model.graph] == ["Add", "Size", "LessOrEqual", "If"]
    assert "w" in model.graph.initializers
    written(model)  # which checks the model


def test_names_are_unique_in_the_whole_model() -> None:
    model = embedded()
    ChooseByTokens(with_absolute_values(model))(model)
    nodes = list(model.graph.all_nodes())
    names = [value.name for node in nodes for value in node.outputs]
    assert len({node.name for node in nodes}) == len(nodes)
    assert len(set(names)) == len(names)
    assert {"/few/y", "/many/y", "y"} <= set(names)
