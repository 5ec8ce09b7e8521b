"""What computes each token by itself is known by operator, axis and what else it reads."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs
import pytest

from castline.compiler.targets.token_operators import TokenValues

GRAPH = """
<ir_version: 10, opset_import: ["" : 23, "castline" : 1, "com.microsoft" : 1]>
g (float[B, S, 4] x, float[B, S, 4] other, float[1] shared) => (float[B, S, 4] y)
<float[4, 4] weight, float[4] gain, int64[1] last = {{-1}}, int64[1] second = {{1}},
 float scale = {{0.5}}, float[4] scales, int8 zero = {{0}}>
{{
    {node}
}}
"""


def read_by(node: str) -> list[str] | None:
    proto = onnx.parser.parse_model(GRAPH.format(node=node))
    graph = gs.import_onnx(proto)
    found = TokenValues(graph).read_by(graph.nodes[-1])
    return None if found is None else [value.name for value in found]


@pytest.mark.parametrize(
    "node",
    [
        "y = MatMul (x, weight)",
        "y = Tanh (x)",
        "y = Mul (x, gain)",
        "y = Mul (x, shared)",
        "y = RMSNormalization <axis = -1> (x, gain)",
        "y = LayerNormalization <axis = 2> (x, gain)",
        "y = QuantizeLinear (x, scale, zero)",
        "y = QuantizeLinear <axis = -1> (x, scales)",
        "y = ReduceMax <keepdims = 1> (x, last)",
        "y = Gather <axis = 2> (x, second)",
        "y = castline.QuantizePerToken <bits = 8> (x)",
        "y = com.microsoft.MatMulNBits <K = 4, N = 4> (x, weight, gain)",
    ],
)
def test_reads_the_token_alone(node: str) -> None:
    assert read_by(node) == ["x"]


@pytest.mark.parametrize(
    "node",
    [
        "y = MatMul (x, other)",
        "y = ReduceMax <keepdims = 1> (x, second)",
        "y = Softmax <axis = 1> (x)",
        "y = RMSNormalization <axis = 1> (x, gain)",
        "y = Gather <axis = 1> (x, second)",
        "y = QuantizeLinear <axis = 1> (x, scales)",
        "y, s, z = DynamicQuantizeLinear (x)",
        "y = castline.QuantizePerTensor <bits = 8> (x)",
        "y = CumSum (x, second)",
        "y = Mul (gain, shared)",
    ],
)
def test_reads_more_than_the_token(node: str) -> None:
    assert read_by(node) is None


def test_both_sides_of_a_sum_hold_tokens() -> None:
    assert read_by("y = Add (x, other)") == ["x", "other"]


def test_a_sum_with_a_value_of_unknown_shape_is_left() -> None:
    assert read_by("a = Unknown (other)\n y = Add (x, a)") is None


def test_values_without_a_known_shape_take_after_what_they_are_made_of() -> None:
    assert read_by("a, b = castline.QuantizePerToken <bits = 8> (x)\n y = Mul (a, b)") == ["a", "b"]
    assert read_by("a = CumSum (x, second)\n y = Tanh (a)") is None
