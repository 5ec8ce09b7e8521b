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
