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


def test_the_ratio_is_ours_by_theirs() -> None:
    from generate import ratios

    speeds = {
        "castline": {"prefill": 300.0, "decode": 50.0},
        "builder": {"prefill": 200.0, "decode": 100.0},
    }
    assert ratios(speeds) == {"prefill": 1.5, "decode": 0.5}


def test_one_side_alone_has_no_ratio() -> None:
    from generate import ratios

    assert ratios({"builder": {"prefill": 200.0, "decode": 100.0}}) == {}
