"""A bias is found where a linear alone feeds an Add of a stored vector."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from castline.compiler.passes.linear_bias import bias_after


def product(body: str, outputs: str = "float[T, 3] y") -> ir.Node:
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[T, 2] x, float[T, 3] residual) => ({outputs})
        <float[2, 3] w = {{1, 2, 3, 4, 5, 6}}, float[3] bias = {{1, 2, 3}},
         float[1] offset = {{1}}> {{ a = MatMul (x, w) {body} }}
    """)
    return model.graph[0]


@pytest.mark.parametrize("order", ["a, bias", "bias, a"])
def test_the_add_ends_the_linear(order: str) -> None:
    bias, last = bias_after(product(f"y = Add ({order})"), 3)
    assert bias is not None
    assert (bias.name, last.op_type) == ("bias", "Add")


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("y = Add (a, residual)", "float[T, 3] y"),
        ("y = Add (a, offset)", "float[T, 3] y"),
        ("y = Mul (a, bias)", "float[T, 3] y"),
        ("y = Add (a, bias)", "float[T, 3] y, float[T, 3] a"),
        ("y = Add (a, bias)\n z = Abs (a)", "float[T, 3] y, float[T, 3] z"),
    ],
)
def test_nothing_else_is_a_bias(body: str, outputs: str) -> None:
    node = product(body, outputs)
    assert bias_after(node, 3) == (None, node)
