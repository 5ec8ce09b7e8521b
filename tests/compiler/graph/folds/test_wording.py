from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.graph.folds.wording import activation, path, shared, unabsorbed

CONSTANTS = {"half": np.float64(0.5), "one": np.float64(1), "zero": np.int64(0)}


@pytest.mark.parametrize(
    ("nodes", "name"),
    [
        ("y = Gelu (x)", "GELU"),
        ("y = Sigmoid (x)", "SiLU"),
        ("a = Mul (x, half) b = Erf (a) c = Add (b, one) y = Mul (a, c)", "GELU"),
        ("a = Mul (x, x) y = Neg (a)", "Mul"),
    ],
)
def test_names_an_activation_by_its_first_operator(nodes: str, name: str, build: Any) -> None:
    assert activation(next(iter(build(nodes, {}, CONSTANTS).graph))) == name


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("y = Add (x, x)", "a sum, such as the residual stream, produces it"),
        ("e = Gather (t, zero) y = Mul (e, half)", "a table of embeddings produces it"),
        ("y = Cos (x)", "Cos produces it, which no scale passes"),
        ("y = Identity (x)", "it is an input of the graph"),
    ],
)
def test_says_why_nothing_can_be_divided(nodes: str, reason: str, build: Any) -> None:
    model = build(nodes, {"t": (5, 8)}, CONSTANTS)
    maker = unabsorbed(model.graph.outputs[0])
    assert maker == reason


def test_an_input_of_the_graph_has_no_producer(build: Any) -> None:
    assert unabsorbed(build("y = Neg (x)", {}).graph.inputs[0]) == "it is an input of the graph"


def test_a_node_is_named_with_its_path() -> None:
    node = ir.Node("", "Gather", [ir.Value(name="w")], name="/model/embed/Gather")
    assert path(node) == "Gather /model/embed/Gather"
    assert shared("w", (node,)) == "w is also the embedding table"
    node.op_type = "Neg"
    assert shared("w", (node,)) == "w is also read by Neg /model/embed/Gather"
