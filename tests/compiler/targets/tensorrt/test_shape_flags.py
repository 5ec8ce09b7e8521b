"""Read the shapes of an engine's inputs as trtexec takes them."""

from __future__ import annotations

import pytest

from castline.compiler.targets.tensorrt.shape_flags import Shapes, shape_sets
from castline.errors import TargetError


def test_each_time_the_flags_are_given_is_a_profile() -> None:
    sets = shape_sets(
        ["input_ids:1x1,attention_mask:1x1", "input_ids:1x1"],
        ["input_ids:1x64,attention_mask:1x64", "input_ids:2x1"],
        ["input_ids:1x512,attention_mask:1x512", "input_ids:4x1"],
    )
    assert sets[0] == {
        "input_ids": Shapes((1, 1), (1, 64), (1, 512)),
        "attention_mask": Shapes((1, 1), (1, 64), (1, 512)),
    }
    assert sets[1] == {"input_ids": Shapes((1, 1), (2, 1), (4, 1))}


def test_no_flag_is_no_profile() -> None:
    assert shape_sets((), (), ()) == ()


def test_a_flag_left_out_takes_what_another_says() -> None:
    assert shape_sets((), ["x:2x3"], ()) == ({"x": Shapes((2, 3), (2, 3), (2, 3))},)
    assert shape_sets(["x:1"], (), ["x:9"]) == ({"x": Shapes((1,), (9,), (9,))},)


def test_names_may_have_colons_and_quotes() -> None:
    assert shape_sets((), ["'a:0':2x3"], ()) == ({"a:0": Shapes((2, 3), (2, 3), (2, 3))},)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (((), ["x"], ()), "'x' is no shape of an input"),
        (((), ["x:1,2"], ()), "'2' is no shape of an input"),
        (((), ["x:1x-1"], ()), "is no shape of an input"),
        (((), ["x:1,x:2"], ()), "x is named twice"),
        ((["x:1"], ["x:1", "x:2"], ()), "--minShapes 1 times, --optShapes 2 times"),
        ((["x:1"], ["y:1"], ()), "Profile 0: the flags name other inputs: --minShapes x; --opt"),
        ((["x:4x1"], ["x:2x1"], ["x:8x1"]), "Profile 0: of x the sizes do not rise"),
        ((["x:1"], ["x:1x1"], ["x:1x1"]), "of x the sizes do not rise"),
    ],
)
def test_what_cannot_be_read_is_named(flags: tuple[list[str], ...], words: str) -> None:
    with pytest.raises(TargetError) as caught:
        shape_sets(*flags)
    assert words in str(caught.value)
