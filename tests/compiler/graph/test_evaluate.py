"""A value is computed from the inputs that it depends on, and from nothing else."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.graph.evaluate import evaluate, sources

GRAPH = """
<ir_version: 10, opset_import: ["" : 23]>
parts (int64[N] a, float[N] b, float[N] unused) => (float[N] sum, int64[N] doubled)
<int64 two = {2}>
{
    doubled = Mul (a, two)
    real = Cast <to = 1> (doubled)
    sum = Add (real, b)
    other = Neg (unused)
}
"""


def test_names_the_inputs_behind_a_value() -> None:
    graph = ir.from_onnx_text(GRAPH).graph
    a, b, _ = graph.inputs
    total, doubled = graph.outputs
    assert sources(doubled) == {a}
    assert sources(total) == {a, b}


def test_computes_the_value_alone() -> None:
    graph = ir.from_onnx_text(GRAPH).graph
    a, b, _ = graph.inputs
    total, doubled = graph.outputs
    np.testing.assert_array_equal(evaluate(doubled, {a: np.array([1, 5])}), [2, 10])
    feeds = {a: np.array([1, 5]), b: np.array([0.5, -1], np.float32)}
    np.testing.assert_array_equal(evaluate(total, feeds), [2.5, 9])


def test_asks_for_every_input() -> None:
    graph = ir.from_onnx_text(GRAPH).graph
    with pytest.raises(AssertionError, match=r"also depends on \['b'\]"):
        evaluate(graph.outputs[0], {graph.inputs[0]: np.array([1])})
