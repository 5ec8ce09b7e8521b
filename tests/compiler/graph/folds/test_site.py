from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from castline.compiler.graph.folds.site import Edit


@pytest.mark.parametrize(
    ("multiply", "offset", "expected"),
    [(True, 0.0, [6, 3, 12]), (False, 0.0, [1.5, 3, 0.75]), (False, 1.0, [1, 3, 0])],
)
def test_an_edit_scales_the_entries_it_names(
    multiply: bool, offset: float, expected: list[float]
) -> None:
    edit = Edit("w", (0,), np.array([1, -1, 0]), multiply, offset)
    scaled = edit.scaling(np.array([4.0, 2.0]), 1).of(np.full(3, 3.0))
    np.testing.assert_array_equal(scaled, expected)


def test_an_edit_of_two_axes_broadcasts_over_the_rest() -> None:
    edit = Edit("w", (0, 2), np.array([[0, 1], [2, -1]]), multiply=True)
    scaled = edit.scaling(np.array([2.0, 3.0, 5.0]), 3).of(np.ones((2, 4, 2)))
    np.testing.assert_array_equal(scaled[:, 0], [[2, 3], [5, 1]])
    np.testing.assert_array_equal(scaled, scaled[:, :1].repeat(4, axis=1))


def test_the_plan_tells_apart_what_folds(build: Any, proven: Any) -> None:
    nodes = "n = RMSNormalization <axis = -1> (x, g) h = MatMul (n, v) a = Gelu (h)"
    plan = proven(build(f"{nodes} y = MatMul (a, w)", {"g": (8,), "v": (8, 6), "w": (6, 5)}))
    assert [site.value for site in plan.foldable] == ["n"]
    assert plan.declined == {"a": "GELU stands in between"}
    assert all(site.foldable == (site.value not in plan.declined) for site in plan.sites)
