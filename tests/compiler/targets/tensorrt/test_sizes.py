"""Take the largest sizes of an engine as people of this field name them."""

from __future__ import annotations

import pytest

from castline.compiler.targets.tensorrt.profile import Profile, Range
from castline.compiler.targets.tensorrt.sizes import Sizes
from castline.errors import TargetError


def test_nothing_chosen_is_the_default_within_the_model() -> None:
    assert Sizes().profile(256) == Profile().clipped(256)


def test_a_batch_is_the_default_s_unless_it_is_chosen() -> None:
    assert Sizes().profile(256, Range(1, 8, 32)).batch == Range(1, 8, 32)
    assert Sizes(max_batch_size=4).profile(256, Range(1, 8, 32)).batch == Range(1, 4, 4)


def test_the_cache_before_the_last_token_is_one_shorter() -> None:
    profile = Sizes(max_batch_size=1, max_input_len=64, max_seq_len=128).profile(2048)
    assert profile == Profile(Range(1, 1, 1), Range(1, 64, 64), Range(0, 127, 127))


def test_a_short_sequence_bounds_the_prompt() -> None:
    assert Sizes(max_seq_len=100).profile(2048).sequence == Range(1, 100, 100)


def test_lengths_beyond_the_model_are_named() -> None:
    assert Sizes(max_input_len=64, max_seq_len=64).refused(64) == ()
    assert Sizes(max_input_len=65, max_seq_len=99).refused(64) == (
        "--max-input-len 65: the model reads 64 tokens at most.",
        "--max-seq-len 99: the model reads 64 tokens at most.",
    )


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"max_batch_size": 0}, "--max-batch-size 0: expected 1 or more"),
        ({"max_input_len": 9, "max_seq_len": 8}, "--max-input-len 9 is above --max-seq-len 8"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, int], words: str) -> None:
    with pytest.raises(TargetError, match=words):
        Sizes(**sizes)
