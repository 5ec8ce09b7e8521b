"""Sums over tokens and experts: attention in both forms, means, and what sums channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

HEADS = """
    a = MatMul (x, wq)  b = MatMul (x, wk)  c = MatMul (x, wv)
    a4 = Reshape (a, four)  b4 = Reshape (b, two)  c4 = Reshape (c, two)
    q = Transpose <perm = [0, 2, 1, 3]> (a4)  k = Transpose <perm = [0, 2, 1, 3]> (b4)
    v = Transpose <perm = [0, 2, 1, 3]> (c4)
"""
REPEATED = """
    k5 = Unsqueeze (k, place)  k6 = Expand (k5, twice)  kk = Reshape (k6, merged)
    v5 = Unsqueeze (v, place)  v6 = Expand (v5, twice)  vv = Reshape (v6, merged)
    kt = Transpose <perm = [0, 1, 3, 2]> (kk)  scores = MatMul (q, kt)
    p = Softmax <axis = -1> (scores)  o = MatMul (p, vv)
"""
FORMS = {"Attention": "o = Attention (q, k, v)", "primitive operators": REPEATED}
MERGE = " t = Transpose <perm = [0, 2, 1, 3]> (o)  f = Reshape (t, flat)  y = MatMul (f, wo)"
CONSTANTS = {
    "four": np.array([0, 0, 4, 2]),
    "two": np.array([0, 0, 2, 2]),
    "flat": np.array([0, 0, 8]),
    "place": np.array([2]),
    "twice": np.array([1, 1, 2, 1, 1]),
    "merged": np.array([0, 4, -1, 2]),
}
PARAMETERS = {"wq": (8, 8), "wk": (8, 4), "wv": (8, 4), "wo": (8, 5)}


@pytest.mark.parametrize("form", FORMS)
def test_heads_of_a_group_share_the_scales_of_their_values(
    form: str, build: Any, proven: Any
) -> None:
    plan = proven(build(HEADS + FORMS[form] + MERGE, PARAMETERS, CONSTANTS))
    site = plan.sites[-1]
    assert (site.kind, site.producer, site.foldable) == ("rows through attention", "wv", True)
    assert site.scales == 4
    np.testing.assert_array_equal(site.channels, [0, 1, 0, 1, 2, 3, 2, 3])


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_queries_and_keys_are_never_divided(form: str, build: Any, proven: Any) -> None:
    plan = proven(build(HEADS + FORMS[form] + MERGE, PARAMETERS, CONSTANTS))
    assert {site.producer for site in plan.sites} == {None, "wv"}


def test_values_that_are_also_keys_are_declined(build: Any, proven: Any) -> None:
    nodes = HEADS + " o = Attention (q, v, v)" + MERGE
    site = proven(build(nodes, PARAMETERS, CONSTANTS)).sites[-1]
    assert site.reason == "Attention scores tokens by it"


def test_a_mean_of_tokens_keeps_scales_and_a_mean_of_channels_does_not(
    build: Any, proven: Any
) -> None:
    nodes = """
        h = MatMul (x, v)  tokens = ReduceMean <keepdims = 1> (h, one)  y = MatMul (tokens, w)
        i = MatMul (x, u)  channels = ReduceMean <keepdims = 1> (i, two)  z = MatMul (channels, t)
    """
    shapes = {"v": (8, 6), "w": (6, 5), "u": (8, 6), "t": (1, 5)}
    constants = {"one": np.array([1]), "two": np.array([2])}
    plan = proven(build(nodes, shapes, constants, gives=("y", "z")))
    _, tokens, channels = plan.sites
    assert tokens.foldable
    assert channels.producer is None


def test_a_contraction_of_scaled_channels_is_not_followed(build: Any, proven: Any) -> None:
    nodes = """
        h = MatMul (x, v)  t = Transpose <perm = [0, 2, 1]> (x)  s = MatMul (h, t)
        f = ReduceMean <keepdims = 1> (s, two)  y = MatMul (f, w)
    """
    model = build(nodes, {"v": (8, 8), "w": (1, 5)}, {"two": np.array([2])})
    assert proven(model).sites[-1].producer is None
