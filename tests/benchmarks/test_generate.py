"""Check that both sides of the speed comparison are given the same task."""

from __future__ import annotations

import re


def test_both_sides_are_told_the_same_group_size_and_head() -> None:
    from generate import SETTINGS

    for setting in SETTINGS:
        ours, theirs = " ".join(setting.castline), " ".join(setting.builder)
        size = re.search(r"weights\.group_size=(\d+)", ours)
        assert size is not None
        assert f"block_size={size[1]}" in theirs
        assert ("head.bits=4" in ours) == ("/lm_head/MatMul" not in theirs)


def test_neither_load_nor_order_counts() -> None:
    from generate import ratios

    # The machine is half as fast in the second pair, and what is loaded last twice as fast.
    runs = [
        {
            "side": side,
            "turn": turn,
            "pair": pair,
            "loaded_first": first,
            "prefill": prefill / (pair + 1) * (1 if side == first else 2),
            "decode": decode / (pair + 1) * (1 if side == first else 2),
        }
        for turn, first in enumerate(("castline", "builder"))
        for pair in (0, 1)
        for side, prefill, decode in (("castline", 300.0, 50.0), ("builder", 200.0, 100.0))
    ]
    assert ratios(runs) == {"prefill": 1.5, "decode": 0.5}
