"""Check that each product has its goal."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("scheme", "m", "k", "n", "ratio"),
    [
        ("W4A16", 1, 4096, 4096, 2.2),  # a small layer
        ("W4A16", 8, 4096, 11008, 3.0),
        ("W4A16", 128, 4096, 4096, 1.1),  # one goal for all layers
        ("W8A8", 64, 14336, 4096, 1.6),
        ("W4A8 groups", 1, 4096, 14336, 2.61),  # nine tenths of the goal with a scale per channel
        ("W4A8", 512, 4096, 4096, 1.4),  # until the next goal begins
        ("W4A4 QLLM", 4096, 4096, 4096, 1.25),
    ],
)
def test_a_goal_depends_on_tokens_and_the_size_of_the_layer(
    scheme: str, m: int, k: int, n: int, ratio: float
) -> None:
    from gemm_goals import goal

    assert goal(scheme, m, k, n) == ratio


def test_every_timed_product_has_a_goal() -> None:
    from gemm import TIMED
    from gemm_goals import GOALS, SHAPES, TOKENS, goal

    assert set(GOALS) == set(TIMED)
    assert all(goal(each, m, *shape) > 0 for each in GOALS for m in TOKENS for shape in SHAPES)
