"""What no number of can be below zero is proved, and nothing else is believed."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from castline.compiler.graph.non_negative import is_non_negative


def proved(body: str) -> bool:
    """Return what is said of y, computed from the graph's input x [4]."""
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        model (float[4] x) => (y)
        <float two = {{2}}, float minus = {{-2}}, int64[1] one = {{1}}, int64[1] first = {{0}}>
        {{ {body} }}
    """)
    for node in model.graph:  # initializers hold their numbers
        assert node.outputs
    return is_non_negative(model.graph.outputs[0])


@pytest.mark.parametrize(
    "body",
    [
        "y = Softmax (x)",
        "p = Sigmoid (x)\n y, i = TopK (p, one)",
        "p = Softmax (x)\n t, i = TopK (p, one)\n s = ReduceSum (t, first)\n y = Div (t, s)",
        "p = Sigmoid (x)\n e = Add (p, two)\n y = Mul (e, two)",
        "y = Max (x, two)",
        "p = Relu (x)\n y = Cast <to = 10> (p)",
    ],
)
def test_the_weights_of_routers_are_proved(body: str) -> None:
    assert proved(body)


@pytest.mark.parametrize(
    "body",
    [
        "y = Identity (x)",
        "y = Neg (x)",
        "p = Sigmoid (x)\n y = Mul (p, minus)",
        "p = Sigmoid (x)\n y = Sub (p, two)",
        "p = Sigmoid (x)\n y = Add (p, x)",
        "y = Max (x, minus)",
        "y = Tanh (x)",
    ],
)
def test_anything_else_is_not(body: str) -> None:
    assert not proved(body)


def test_a_value_that_is_absent_is_not() -> None:
    assert not is_non_negative(None)
