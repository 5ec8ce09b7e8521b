"""The loop over tokens feeds each one back and ends where it should, whatever gives logits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from castline.compiler.targets.generation import GREEDY, Tokens, following_tokens, room_for
from castline.compiler.targets.sampling import Sampling
from castline.errors import TargetError


class Counting:
    """Its likeliest next token is the sum of all tokens so far, modulo 10."""

    def __init__(self, context_length: int | None = None) -> None:
        self.context_length = context_length
        self.begun: list[tuple[int, int]] = []

    def begin(self, batch: int, capacity: int) -> Counting:
        self.begun.append((batch, capacity))
        self.seen: list[int] = []
        return self

    def step(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> np.ndarray:
        assert attention_mask is None
        self.seen += input_ids[0].tolist()
        return np.eye(10, dtype=np.float32)[[[sum(self.seen) % 10]]]


def told(decoder: Counting, prompt: list[int], count: int, stop: Iterable[int] = ()) -> list[int]:
    tokens = following_tokens(
        decoder,
        np.array([prompt]),
        max_new_tokens=count,
        sampling=GREEDY,
        stop=frozenset(stop),
    )
    return list(tokens)


def test_each_token_is_fed_back() -> None:
    # 3 + 4 = 7, + 7 = 14, + 4 = 18, + 8 = 26
    assert told(Counting(), [3, 4], 4) == [7, 4, 8, 6]


def test_the_last_token_is_not_computed_with() -> None:
    decoder = Counting()
    told(decoder, [3, 4], 2)
    assert decoder.seen == [3, 4, 7]


def test_a_stop_token_ends_it_and_is_not_told() -> None:
    assert told(Counting(), [3, 4], 9, stop=[8]) == [7, 4]


def test_the_context_ends_it() -> None:
    decoder = Counting(context_length=5)
    assert told(decoder, [3, 4], 9) == [7, 4, 8]
    assert decoder.begun == [(1, 5)]


def test_the_prompt_counts_as_seen() -> None:
    penalty = Sampling(repetition_penalty=100.0)
    tokens = following_tokens(
        Counting(), np.array([[7, 3, 7]]), max_new_tokens=2, sampling=penalty, stop=frozenset()
    )
    # The first sum is 17: 7 was there, so the first of the others; then 17 + 0 again.
    assert list(tokens) == [7, 4]


def test_room_is_for_the_prompt_and_what_may_follow() -> None:
    prompt = np.array([[1, 2, 3]])
    assert room_for(prompt, 5, None) == (3, 8)
    assert room_for(prompt, 5, 6) == (3, 6)
    with pytest.raises(TargetError, match="prompt has no tokens"):
        room_for(prompt[:, :0], 5, None)
