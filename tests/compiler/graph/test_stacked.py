"""Linears of experts and the routers that choose them are told by their place in the graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.stacked import routers, stacked_linears


def model(body: str, **stored: np.ndarray) -> ir.Model:
    """Return a graph of x [2, 3, 4] whose other inputs are the stored arrays."""
    types = {"f": "float", "i": "int8"}
    inputs = "".join(
        f", {types[a.dtype.kind]}[{', '.join(map(str, a.shape))}] {name}"
        for name, a in stored.items()
    )
    found = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        model (float[2, 3, 4] x{inputs}) => (y) <int64[1] one = {{1}}> {{ {body} }}
    """)
    for value in list(found.graph.inputs)[1:]:
        found.graph.inputs.remove(value)
        value.const_value = ir.Tensor(stored[str(value.name)], name=value.name)
        found.graph.initializers.add(value)
    for node in found.graph:
        node.name = str(node.outputs[0].name)
    return found


STACK = np.ones((2, 4, 6), np.float32)


def test_a_product_with_a_stored_stack_is_a_linear_of_experts() -> None:
    (linear,) = stacked_linears(model("y = MatMul (x, w)", w=STACK))
    assert (linear.name, linear.experts, linear.k, linear.n) == ("w", 2, 4, 6)
    assert linear.dequantize is None


def test_so_is_one_with_codes_in_groups_along_k() -> None:
    parts = {"codes": STACK.astype(np.int8), "scales": np.ones((2, 2, 6), np.float32)}
    body = "w = DequantizeLinear <axis = 1, block_size = 2> (codes, scales)\n y = MatMul (x, w)"
    (linear,) = stacked_linears(model(body, **parts))
    assert (linear.name, linear.experts, linear.k, linear.n) == ("codes", 2, 4, 6)
    assert linear.dequantize is linear.node.inputs[1].producer()  # type: ignore[union-attr]


def test_other_products_are_not() -> None:
    assert stacked_linears(model("y = MatMul (x, w)", w=STACK[0])) == ()
    assert stacked_linears(model("t = Transpose (x)\n y = MatMul (x, t)")) == ()
    scales = np.ones((2, 4, 3), np.float32)
    along_n = "w = DequantizeLinear <axis = 2, block_size = 2> (codes, scales)\n y = MatMul (x, w)"
    codes = STACK.astype(np.int8)
    assert stacked_linears(model(along_n, codes=codes, scales=scales)) == ()


def test_a_router_is_the_last_product_before_a_choice() -> None:
    body = """
        before = MatMul (x, a)
        scores = MatMul (before, b)
        probabilities = Softmax (scores)
        values, y = TopK (probabilities, one)
        beside = MatMul (x, b)
    """
    found = model(body, a=np.eye(4, dtype=np.float32), b=np.ones((4, 8), np.float32))
    assert [node.name for node in routers(found)] == ["scores"]


def test_a_graph_without_a_choice_has_no_router() -> None:
    assert routers(model("y = MatMul (x, w)", w=STACK[0])) == frozenset()
