"""Functions of single elements: what lets a scale through, and what does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

TWO = {"v": (8, 6), "w": (6, 5)}
CONSTANTS = {"half": np.float64(0.5), "one": np.float64(1), "cube": np.float64(3)}
TANH = """
    p = Pow (h, cube)  a = Add (h, p)  t = Tanh (a)  o = Add (t, one)  k = Mul (h, half)
    f = Mul (k, o)
"""
BETWEEN = {
    "Relu": ("f = Relu (h)", None),
    "Abs": ("f = Abs (h)", None),
    "a multiple": ("f = Mul (h, half)", None),
    "a fraction": ("f = Div (h, half)", None),
    "Gelu": ("f = Gelu (h)", "GELU stands in between"),
    "GELU of primitive operators": (TANH, "GELU stands in between"),
    "SiLU": ("a = Sigmoid (h) f = Mul (h, a)", "SiLU stands in between"),
    "square": ("f = Mul (h, h)", "Mul stands in between"),
    "a shift": ("f = Sub (h, one)", "Sub stands in between"),
    "an inverse": ("f = Div (one, h)", "Div reads it"),
    "a rounding": ("i = Cast <to = 7> (h) f = Cast <to = 11> (i)", "Cast reads it"),
    "a residual": ("f = Add (h, six)", "the residual Add reads it"),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_rows_of_a_linear_fold_where_the_function_between_scales(
    name: str, build: Any, proven: Any
) -> None:
    between, reason = BETWEEN[name]
    nodes = f"six = MatMul (x, u)  h = MatMul (x, v)  {between}  y = MatMul (f, w)"
    plan = proven(build(nodes, TWO | {"u": (8, 6)}, CONSTANTS))
    site = plan.sites[-1]
    if name in ("an inverse", "a rounding", "a residual"):  # nothing goes on from there
        assert site.producer is None
        return
    assert site.reason == reason
    assert site.producer == "v"
    assert site.kind == ("rows through ReLU" if name == "Relu" else "rows")


def test_a_gate_folds_into_its_multiplicative_side(build: Any, proven: Any) -> None:
    nodes = "g = MatMul (x, u) a = Gelu (g) h = MatMul (x, v) f = Mul (a, h) y = MatMul (f, w)"
    site = proven(build(nodes, TWO | {"u": (8, 6)})).sites[-1]
    assert (site.kind, site.producer, site.foldable) == ("rows through a gate", "v", True)


@pytest.mark.parametrize("order", ["a, up", "up, a"])
def test_a_fused_gate_folds_into_the_half_that_is_not_bent(
    order: str, build: Any, proven: Any
) -> None:
    nodes = f"""
        h = MatMul (x, v)  gate, up = Split <axis = 2, num_outputs = 2> (h)
        s = Sigmoid (gate)  a = Mul (gate, s)  f = Mul ({order})  y = MatMul (f, w)
    """
    site = proven(build(nodes, {"v": (8, 12), "w": (6, 5)})).sites[-1]
    assert (site.kind, site.scales, site.reason) == ("rows through a gate", 6, None)
    np.testing.assert_array_equal(site.edits[0].index, [-1] * 6 + list(range(6)))


def test_a_product_of_two_linear_halves_is_scaled_once(build: Any, proven: Any) -> None:
    nodes = """
        h = MatMul (x, v)  left, right = Split <axis = 2, num_outputs = 2> (h)
        f = Mul (left, right)  y = MatMul (f, w)
    """
    site = proven(build(nodes, {"v": (8, 12), "w": (6, 5)})).sites[-1]
    assert site.foldable
    assert set(site.edits[0].index[:6]) == {-1}


@pytest.mark.parametrize("add", ["h = Add (m, b)", "h = Add (b, m)", "h = Sub (m, b)"])
def test_a_bias_is_divided_with_its_linear(add: str, build: Any, proven: Any) -> None:
    nodes = f"m = MatMul (x, v)  {add}  f = Relu (h)  y = MatMul (f, w)"
    site = proven(build(nodes, TWO | {"b": (6,)})).sites[-1]
    assert site.foldable
    assert [edit.parameter for edit in site.edits] == ["v", "b", "w"]


def test_a_bias_that_something_else_reads_is_not_divided(build: Any, proven: Any) -> None:
    nodes = "m = MatMul (x, v) h = Add (m, b) y = MatMul (h, w) z = Neg (b)"
    site = proven(build(nodes, TWO | {"b": (6,)}, gives=("y", "z"))).sites[-1]
    assert not site.foldable


def test_a_bias_for_several_channels_is_not_divided(build: Any, proven: Any) -> None:
    nodes = "m = MatMul (x, v) s = Reshape (m, heads) h = Add (s, b) f = Reshape (h, flat)"
    constants = {"heads": np.array([0, 0, 2, 3]), "flat": np.array([0, 0, 6])}
    model = build(nodes + " y = MatMul (f, w)", TWO | {"b": (3,)}, constants)
    site = proven(model).sites[-1]
    assert site.reason == "b adds one number to channels of several scales"


def test_a_norm_that_a_residual_reads_is_declined(build: Any, proven: Any) -> None:
    nodes = "n = RMSNormalization <axis = -1> (x, g) a = MatMul (n, w) y = Add (n, a)"
    plan = proven(build(nodes, {"g": (8,), "w": (8, 8)}))
    assert plan.declined == {"n": "the residual Add reads it"}


def test_channels_that_are_added_to_one_another_are_declined(build: Any, proven: Any) -> None:
    nodes = """
        m = MatMul (x, v)  a, b = Split <axis = 2, num_outputs = 2> (m)  minus = Neg (b)
        turned = Concat <axis = 2> (minus, a)  h = Add (m, turned)  y = MatMul (h, w)
        z = MatMul (m, u)
    """
    plan = proven(build(nodes, TWO | {"u": (6, 5)}, gives=("y", "z")))
    site = plan.site_of[""] if "" in plan.site_of else plan.sites[-1]
    assert site.reason == "Add adds channels to one another, as rotary positions do"


def test_a_value_added_to_its_own_multiple_keeps_its_scales(build: Any, proven: Any) -> None:
    nodes = "m = MatMul (x, v) k = Mul (m, half) h = Add (m, k) y = MatMul (h, w)"
    assert proven(build(nodes, TWO, CONSTANTS)).sites[-1].foldable
