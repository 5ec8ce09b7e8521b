"""A dense mixture is recognized whole; what mixes tokens or is read elsewhere is refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import pytest

from castline.compiler.graph.experts import bias_of_experts, dense_experts

BODY = """
    length = Shape <start = 0, end = 1> (index)
    shape = Concat <axis = 0> (length, experts)
    nothing = Expand (zero, shape)
    routing = ScatterElements <axis = 1> (nothing, index, weights)
    turned = Transpose <perm = [1, 0]> (routing)
    by_expert = Unsqueeze (turned, last)
    rows = Unsqueeze (x, first)
    up = MatMul (rows, w)
    inner = Relu (up)
    answers = MatMul (inner, v)
    weighted = Mul (answers, by_expert)
    y = ReduceSum <keepdims = 0> (weighted, first)
"""
TURNED = "turned = Transpose <perm = [1, 0]> (routing)"
RELU = "inner = Relu (up)"
OUTSIDE = "is read outside of the experts"
TWO_READ = """
    other = Neg (x)
    other_rows = Unsqueeze (other, first)
    product = MatMul (other_rows, w)
    inner = Mul (up, product)
"""


@dataclass(frozen=True)
class Graph:
    """The mixture y of two experts, with lines of its body replaced."""

    replaced: tuple[tuple[str, str], ...] = ()
    chosen: str = "1"

    def model(self) -> ir.Model:
        body = BODY
        for old, new in self.replaced:
            assert old in body, f"{old!r} is no line of the mixture"
            body = body.replace(old, new)
        model = ir.from_onnx_text(f"""
            <ir_version: 10, opset_import: ["" : 23]>
            mixture (float[T, 4] x, int64[T, {self.chosen}] index, float[T, {self.chosen}] weights,
                     float[2, 4, 6] w, float[2, 6, 4] v, float[2, 6] b) => (y, extra)
            <float zero = {{0}}, float one = {{1}}, float[6] gain = {{1, 1, 1, 1, 1, 1}},
             int64[1] first = {{0}}, int64[1] second = {{1}},
             int64[1] last = {{-1}}, int64[1] experts = {{2}}>
            {{ {body if "extra" in body else body + "extra = Neg (x)"} }}
        """)
        for value in list(model.graph.inputs)[3:]:
            model.graph.inputs.remove(value)
            assert value.shape is not None
            value.const_value = ir.Tensor(np.ones(value.shape.numpy(), np.float32), name=value.name)
            model.graph.initializers.add(value)
        for node in model.graph:
            node.name = f"/mlp/{node.outputs[0].name}"
        common_passes.ShapeInferencePass()(model)
        return model


def test_a_mixture_is_found_with_all_its_parts() -> None:
    ((found,), declined) = dense_experts(Graph().model())
    assert declined == {}
    values = (found.hidden, found.rows, found.index, found.weights, found.nothing, found.routing)
    names = ["x", "rows", "index", "weights", "nothing", "routing"]
    assert [value.name for value in values] == names
    assert [linear.name for linear in found.linears] == ["w", "v"]
    assert [node.op_type for node in found.between] == ["Relu"]
    assert (found.answers.name, found.output.name) == ("answers", "y")
    assert (found.name, found.experts, found.chosen) == ("/mlp", 2, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Mul (answers, by_expert)", "Mul (by_expert, answers)"),
        (
            "nothing = Expand",
            "f = Expand (zero, shape)\n nothing = Cast <to = 1> (f)\n other = Expand",
        ),
        (TURNED, f"cast = Cast <to = 1> (routing)\n {TURNED.replace('routing', 'cast')}"),
        (RELU, "bias = Unsqueeze (b, second)\n inner = Add (up, bias)"),
        (RELU, "inner = Mul (up, one)"),
        (RELU, "cast = Cast <to = 1> (one)\n inner = Mul (up, cast)"),
        (RELU, "inner = RMSNormalization <axis = -1> (up, gain)"),
    ],
)
def test_other_ways_to_write_it_are_found_too(old: str, new: str) -> None:
    found, declined = dense_experts(Graph(((old, new),)).model())
    assert (len(found), declined) == (1, {})


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (RELU, "inner = CumSum (up, first)", "CumSum in between may mix tokens"),
        (RELU, "inner = Mul (up, gain)", "Mul in between may mix tokens"),
        (RELU, "inner = Softmax <axis = 1> (up)", "Softmax in between may mix tokens"),
        (RELU, "inner = Relu (up)\n extra = Neg (up)", f"up {OUTSIDE}"),
        ("weighted = Mul", "extra = Neg (answers)\n weighted = Mul", f"answers {OUTSIDE}"),
        (RELU, TWO_READ, "the experts do not all read the same tokens"),
    ],
)
def test_declines_with_the_reason(old: str, new: str, reason: str) -> None:
    found, declined = dense_experts(Graph(((old, new),)).model())
    assert (found, declined) == ((), {"/mlp/y": reason})


def test_declines_a_choice_of_unknown_length() -> None:
    _, declined = dense_experts(Graph(chosen="k").model())
    reason = "how many experts a token gets is not known before it runs"
    assert declined == {"/mlp/y": reason}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<keepdims = 0> (weighted, first)", "<keepdims = 1> (weighted, first)"),
        ("(weighted, first)", "(weighted, second)"),
        ("<axis = 1> (nothing", '<axis = 1, reduction = "add"> (nothing'),
        ("Expand (zero, shape)", "Expand (one, shape)"),
        ("weighted = Mul (answers, by_expert)", "weighted = Mul (answers, one)"),
    ],
)
def test_a_sum_that_is_not_routed_is_nobodys_business(old: str, new: str) -> None:
    assert dense_experts(Graph(((old, new),)).model()) == ((), {})


def test_biases_are_told_by_their_axis() -> None:
    model = Graph(((RELU, "bias = Unsqueeze (b, second)\n inner = Add (up, bias)"),)).model()
    values = {str(v.name): v for node in model.graph for v in node.outputs}
    found = bias_of_experts(values["bias"])
    assert found is not None
    assert found.name == "b"
    assert bias_of_experts(values["rows"]) is None
    assert bias_of_experts(None) is None
