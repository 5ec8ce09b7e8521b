"""Elements that change places: fused projections of every layout, and the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

PAST, PRESENT = "past_key_values.0.value", "present.0.value"
# Two heads of width 2: how queries, keys and values stand in a fused projection, and their rows.
LAYOUTS = {
    "thirds": (
        "a, b, c = Split <axis = 2, num_outputs = 3> (h)  v = Reshape (c, heads)",
        [8, 9, 10, 11],
    ),
    "a triple for each head": (
        "r = Reshape (h, triples)  v = Gather <axis = 3> (r, two)",
        [4, 5, 10, 11],
    ),
    "one after the other in each head": (
        "r = Reshape (h, six)  a, b, v = Split <axis = 3, num_outputs = 3> (r)",
        [4, 5, 10, 11],
    ),
    "every third": ("c = Slice (h, from, to, axis, step)  v = Reshape (c, heads)", [2, 5, 8, 11]),
}
CONSTANTS = {
    "heads": np.array([0, 0, 2, 2]),
    "triples": np.array([0, 0, 2, 3, 2]),
    "six": np.array([0, 0, 2, 6]),
    "two": np.int64(2),
    "flat": np.array([0, 0, 4]),
    "from": np.array([2]),
    "to": np.array([99]),
    "axis": np.array([2]),
    "step": np.array([3]),
}
PARAMETERS = {"qkv": (8, 12), "bias": (12,), "w": (4, 5)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_values_are_found_in_a_fused_projection(
    layout: str, build: Any, proven: Any
) -> None:
    cut, rows = LAYOUTS[layout]
    nodes = f"m = MatMul (x, qkv) h = Add (m, bias) {cut} o = Reshape (v, flat) y = MatMul (o, w)"
    site = proven(build(nodes, PARAMETERS, CONSTANTS)).sites[-1]
    assert site.foldable
    weight, bias, _ = site.edits
    assert list(np.flatnonzero(weight.index >= 0)) == rows
    assert list(np.flatnonzero(bias.index >= 0)) == rows


def attention(cache: str) -> str:
    return f"""
        m = MatMul (x, qkv)  a, b, c = Split <axis = 2, num_outputs = 3> (m)
        v = Reshape (c, heads)  new = Transpose <perm = [0, 2, 1, 3]> (v)  {cache}
        q = Reshape (a, heads)  query = Transpose <perm = [0, 2, 1, 3]> (q)
        mixed = ReduceMean <keepdims = 1> (all, third)  both = Concat <axis = 2> (mixed, mixed)
        o = Transpose <perm = [0, 2, 1, 3]> (mixed)  f = Reshape (o, flat)  y = MatMul (f, w)
    """


CACHE = f'"{PRESENT}" = Concat <axis = 2> ("{PAST}", new)'
THIRD = CONSTANTS | {"third": np.array([2]), "flat": np.array([0, 0, 4])}


def test_a_cache_is_scaled_as_it_is_read_back(build: Any, proven: Any) -> None:
    nodes = attention(f'{CACHE}  all = Identity ("{PRESENT}")')
    model = build(nodes, PARAMETERS, THIRD, gives=("y", PRESENT), past=(PAST,))
    assert proven(model).sites[-1].foldable


def test_a_cache_that_something_else_reads_is_not_scaled(build: Any, proven: Any) -> None:
    nodes = attention(f'{CACHE}  all = Identity ("{PRESENT}")  z = Neg ("{PAST}")')
    model = build(nodes, PARAMETERS, THIRD, gives=("y", PRESENT, "z"), past=(PAST,))
    assert not proven(model).sites[-1].foldable


def test_a_cache_that_is_put_out_otherwise_is_not_scaled(build: Any, proven: Any) -> None:
    nodes = attention(f'all = Concat <axis = 2> ("{PAST}", new)  "{PRESENT}" = Neg (all)')
    model = build(nodes, PARAMETERS, THIRD, gives=("y", PRESENT), past=(PAST,))
    assert not proven(model).sites[-1].foldable


def test_channels_beside_scaled_ones_stay_as_they_are(build: Any, proven: Any) -> None:
    nodes = "h = MatMul (x, v) j = Concat <axis = 2> (h, x) y = MatMul (j, w)"
    site = proven(build(nodes, {"v": (8, 6), "w": (14, 5)})).sites[-1]
    assert site.foldable
    assert list(site.channels) == [*range(6), *[-1] * 8]


def test_a_place_that_depends_on_the_text_is_not_followed(build: Any, proven: Any) -> None:
    nodes = """
        top, index = TopK <axis = -1> (x, four)  row = ReduceMax <keepdims = 0> (index, both)
        h = MatMul (x, v)  g = Gather <axis = 2> (h, row)  y = MatMul (g, w)
    """
    constants = {"four": np.array([4]), "both": np.array([0, 1])}
    site = proven(build(nodes, {"v": (8, 8), "w": (4, 5)}, constants)).sites[-1]
    assert not site.foldable
