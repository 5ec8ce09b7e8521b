from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from castline.exporters.gemm import split_gemms

FEEDS = {
    name: np.random.default_rng(len(name)).normal(size=shape).astype(np.float32)
    for name, shape in {"x": (2, 3), "w": (3, 4), "wt": (4, 3), "b": (4,)}.items()
}


def graph(call: str) -> ir.Model:
    inputs = ", ".join(f"float[{','.join(map(str, a.shape))}] {n}" for n, a in FEEDS.items())
    return ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["" : 23]> g ({inputs}) => (float[2, 4] y) {{ {call} }}'
    )


def run(model: ir.Model) -> np.ndarray:
    return np.asarray(ReferenceEvaluator(ir.to_proto(model)).run(["y"], FEEDS)[0])


@pytest.mark.parametrize(
    ("call", "operators"),
    [
        ("y = Gemm(x, w, b)", ["MatMul", "Add"]),
        ("y = Gemm(x, w)", ["MatMul"]),
        ("y = Gemm<transB = 1>(x, wt, b)", ["Transpose", "MatMul", "Add"]),
    ],
)
def test_a_linear_becomes_matmul_and_add(call: str, operators: list[str]) -> None:
    model = graph(call)
    expected = run(model)
    (gemm,) = model.graph
    gemm.metadata_props["scope"] = "m.layers.0"
    split_gemms(model.graph)
    assert [node.op_type for node in model.graph] == operators
    assert {node.metadata_props["scope"] for node in model.graph} == {"m.layers.0"}
    np.testing.assert_allclose(run(model), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "call", ["y = Gemm<alpha = 0.5>(x, w, b)", "y = Gemm<transA = 1>(xt, w, b)"]
)
def test_leaves_what_is_no_linear(call: str) -> None:
    model = graph(call.replace("y = Gemm<transA", "xt = Transpose(x) y = Gemm<transA"))
    before = [node.op_type for node in model.graph]
    split_gemms(model.graph)
    assert [node.op_type for node in model.graph] == before
