"""Experts are gated by SiLU when nothing but that stands between their two linears."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import pytest

from castline.compiler.graph.experts import dense_experts
from castline.compiler.graph.gated_experts import is_silu_gated

SPLIT = "gate, up = Split <axis = -1, num_outputs = 2> (gates)\n"
SILU = "sigmoid = Sigmoid (gate)\n silu = Mul (gate, sigmoid)\n"


def is_gated(between: str) -> bool:
    """Return what is said of two experts with these lines from `gates` [2, T, 6] to `inner`."""
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 24]>
        mixture (float[T, 4] x, int64[T, 1] index, float[T, 1] weights,
                 float[2, 4, 6] w, float[2, 3, 4] v, float[2, 6] b) => (y)
        <float zero = {{0}}, float two = {{2}}, int64[2] uneven = {{2, 4}}, int64[1] first = {{0}},
         int64[1] second = {{1}}, int64[1] last = {{-1}}, int64[1] experts = {{2}}>
        {{
            length = Shape <start = 0, end = 1> (index)
            shape = Concat <axis = 0> (length, experts)
            nothing = Expand (zero, shape)
            routing = ScatterElements <axis = 1> (nothing, index, weights)
            turned = Transpose <perm = [1, 0]> (routing)
            by_expert = Unsqueeze (turned, last)
            rows = Unsqueeze (x, first)
            gates = MatMul (rows, w)
            {between}
            answers = MatMul (inner, v)
            weighted = Mul (answers, by_expert)
            y = ReduceSum <keepdims = 0> (weighted, first)
        }}
    """)
    for value in list(model.graph.inputs)[3:]:
        model.graph.inputs.remove(value)
        assert value.shape is not None
        value.const_value = ir.Tensor(np.ones(value.shape.numpy(), np.float32), name=value.name)
        model.graph.initializers.add(value)
    for node in model.graph:
        node.name = str(node.outputs[0].name)
    common_passes.ShapeInferencePass()(model)
    (found,), declined = dense_experts(model)
    assert declined == {}
    return is_silu_gated(found)


@pytest.mark.parametrize(
    "between",
    [
        SPLIT + SILU + "inner = Mul (silu, up)",
        SPLIT + SILU + "inner = Mul (up, silu)",
        SPLIT + "sigmoid = Sigmoid (gate)\n silu = Mul (sigmoid, gate)\n inner = Mul (silu, up)",
        SPLIT + "silu = Swish (gate)\n inner = Mul (silu, up)",
    ],
)
def test_every_way_to_write_silu_is_one(between: str) -> None:
    assert is_gated(between)


@pytest.mark.parametrize(
    "between",
    [
        SPLIT + "silu = Gelu (gate)\n inner = Mul (silu, up)",
        SPLIT + "silu = Swish <alpha = 2.0> (gate)\n inner = Mul (silu, up)",
        SPLIT + "sigmoid = Sigmoid (up)\n silu = Mul (up, sigmoid)\n inner = Mul (silu, gate)",
        SPLIT + SILU + "inner = Add (silu, up)",
        SPLIT + SILU + "more = Mul (up, two)\n inner = Mul (silu, more)",
        SPLIT + SILU + "twice = Mul (silu, two)\n inner = Mul (twice, up)",
        "bias = Unsqueeze (b, second)\n biased = Add (gates, bias)\n"
        + SPLIT.replace("gates)", "biased)")
        + SILU
        + "inner = Mul (silu, up)",
        "one = Split <axis = -1, num_outputs = 2> (gates)\n inner = Relu (one)",
    ],
)
def test_anything_else_is_not(between: str) -> None:
    assert not is_gated(between)
