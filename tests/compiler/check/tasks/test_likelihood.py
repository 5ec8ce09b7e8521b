"""Likelihoods are sums of log probabilities, and neighbours share what they read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from castline.compiler.check.tasks.likelihood import likelihoods
from castline.compiler.check.tasks.pairs import TokenPair


class Counting:
    """Of four tokens the next is twice as likely as each other; what is read is counted."""

    def __init__(self) -> None:
        self.contexts: list[list[int]] = []

    def continued(
        self, context: np.ndarray, continuations: Sequence[np.ndarray]
    ) -> Iterator[np.ndarray]:
        self.contexts.append(context.tolist())
        for tokens in continuations:
            before = np.concatenate([context[-1:], tokens[:-1]])
            logits = np.zeros((tokens.size, 4), np.float32)
            logits[np.arange(tokens.size), (before + 1) % 4] = math.log(2)
            yield logits


def test_the_log_probability_is_the_sum_over_the_continuation() -> None:
    pairs = [TokenPair((1,), (2, 3)), TokenPair((1,), (2, 0)), TokenPair((1,), (1,))]
    found = list(likelihoods(Counting(), pairs))
    expected = [math.log(2 / 5 * 2 / 5), math.log(2 / 5 * 1 / 5), math.log(1 / 5)]
    assert [one.log for one in found] == pytest.approx(expected)
    assert [one.greedy for one in found] == [True, False, False]


def test_neighbours_with_one_context_read_it_once_and_keep_their_order() -> None:
    model = Counting()
    pairs = [TokenPair((1,), (2,)), TokenPair((1,), (3,)), TokenPair((2,), (3,))]
    assert [one.greedy for one in likelihoods(model, pairs)] == [True, False, True]
    assert model.contexts == [[1], [2]]
