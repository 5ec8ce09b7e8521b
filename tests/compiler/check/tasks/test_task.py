"""The length of a choice is that of what is asked, without the space before it."""

from __future__ import annotations

import pytest

from castline.compiler.check.tasks.task import Request


@pytest.mark.parametrize(("text", "length"), [(" yes", 3), ("yes", 3), ("  a", 2), (" ", 1)])
def test_the_space_before_a_choice_does_not_count(text: str, length: int) -> None:
    assert Request("Q:", text).length == length
