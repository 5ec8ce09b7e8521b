"""What can be divided: gains of norms in every form, rows of linears, experts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

NORMS = {
    "norm gain": "n = RMSNormalization <axis = -1> (x, g)",
    "norm gain and bias": "n = LayerNormalization <axis = -1> (x, g, c)",
    "norm gain (1 + w)": "m = Add (g, one)  n = RMSNormalization <axis = -1> (x, m)",
}
PRIMITIVE = """
    squared = Mul (x, x)  mean = ReduceMean (squared, last)  root = Sqrt (mean)
    normal = Div (x, root)  n = Mul (g, normal)
"""
LAST = {"last": np.array([-1]), "one": np.float64(1)}


@pytest.mark.parametrize("kind", NORMS)
def test_the_gain_of_a_norm_is_divided(kind: str, build: Any, proven: Any) -> None:
    shapes = {"g": (8,), "c": (8,), "w": (8, 5)}
    (site,) = proven(build(NORMS[kind] + " y = MatMul (n, w)", shapes, LAST)).sites
    assert (site.kind, site.reason, site.scales) == (kind, None, 8)
    assert site.value == "n"
    divided = {edit.parameter for edit in site.edits if not edit.multiply}
    assert divided == ({"g", "c"} if "bias" in kind else {"g"})


def test_a_norm_of_primitive_operators_has_a_gain(build: Any, proven: Any) -> None:
    model = build(PRIMITIVE + " y = MatMul (n, w)", {"g": (8,), "w": (8, 5)}, LAST)
    (site,) = proven(model).sites
    assert (site.kind, site.producer, site.foldable) == ("norm gain", "g", True)


def test_a_gain_that_is_an_input_is_none_of_ours(build: Any, proven: Any) -> None:
    nodes = "g = ReduceMean (x, first)  n = RMSNormalization <axis = -1> (x, g) y = MatMul (n, w)"
    (site,) = proven(build(nodes, {"w": (8, 5)}, {"first": np.array([0, 1])})).sites
    assert site.producer is None
    assert site.edits == ()
    assert "RMSNormalization produces it" in site.reason


def test_a_norm_without_a_stored_bias_is_left_alone(build: Any, proven: Any) -> None:
    nodes = """
        c = ReduceMean <keepdims = 0> (x, first)  n = LayerNormalization <axis = -1> (x, g, c)
        y = MatMul (n, w)
    """
    shapes = {"g": (8,), "w": (8, 5)}
    (site,) = proven(build(nodes, shapes, {"first": np.array([0, 1])})).sites
    assert not site.foldable


@pytest.mark.parametrize("transposed", [0, 1])
def test_rows_of_a_linear_with_its_bias_are_divided(
    transposed: int, build: Any, proven: Any
) -> None:
    nodes = f"""
        flat = Reshape (x, rows)  h = Gemm <transB = {transposed}> (flat, v, b)
        y = Gemm <transB = {transposed}> (h, w)
    """
    shapes = {"v": (6, 8) if transposed else (8, 6), "b": (6,), "w": (6, 5)}
    shapes["w"] = (5, 6) if transposed else (6, 5)
    site = proven(build(nodes, shapes, {"rows": np.array([-1, 8])})).sites[1]
    assert (site.kind, site.producer, site.foldable) == ("rows", "v", True)
    axes = {edit.parameter: edit.axes for edit in site.edits}
    assert axes == {"v": (1 - transposed,), "b": (0,), "w": (transposed,)}


def test_experts_have_scales_of_their_own(build: Any, proven: Any) -> None:
    nodes = """
        n = RMSNormalization <axis = -1> (x, g)  flat = Reshape (n, rows)
        one = Unsqueeze (flat, zero)  both = MatMul (one, v)
        gate, up = Split <axis = 2, num_outputs = 2> (both)
        bent = Sigmoid (gate)  h = Mul (bent, up)  out = MatMul (h, w)
        router = MatMul (flat, r)  weight = Softmax <axis = -1> (router)
        turned = Transpose <perm = [1, 0]> (weight)  chosen = Unsqueeze (turned, last)
        weighted = Mul (out, chosen)  y = ReduceSum <keepdims = 0> (weighted, zero)
    """
    shapes = {"g": (8,), "v": (3, 8, 10), "w": (3, 5, 4), "r": (8, 3)}
    constants = {"rows": np.array([-1, 8]), "zero": np.array([0]), "last": np.array([-1])}
    plan = proven(build(nodes, shapes, constants))
    norm, inner = plan.sites
    assert [consumer.linear for consumer in norm.consumers] == ["v", "r"]
    assert norm.scales == 8
    assert inner.scales == 15
    assert inner.kind == "rows through a gate"
    np.testing.assert_array_equal(inner.channels, np.arange(15).reshape(3, 5))
    up = inner.edits[0]
    assert (up.parameter, up.axes) == ("v", (0, 2))
    assert (up.index[:, :5] == -1).all()


def test_a_gain_of_two_norms_is_declined(build: Any, proven: Any) -> None:
    nodes = """
        n = RMSNormalization <axis = -1> (x, g)  a = MatMul (n, v)  s = Add (x, a)
        m = RMSNormalization <axis = -1> (s, g)  y = MatMul (m, w)
    """
    plan = proven(build(nodes, {"g": (8,), "v": (8, 8), "w": (8, 5)}))
    assert plan.declined == {
        "n": "g is also read by RMSNormalization",
        "m": "g is also read by RMSNormalization",
    }
