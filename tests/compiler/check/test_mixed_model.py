"""A mix runs the pieces it names, and begins where another mix was already."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from castline.compiler.check.mixed_model import MixedModel

FEEDS = ({"input_ids": np.array([[1.0, 2.0]])}, {"input_ids": np.array([[5.0]])})


class Piece:
    """Adds an amount to what it is handed, and counts how often."""

    def __init__(self, reads: str, adds: float) -> None:
        self.reads, self.adds, self.runs = reads, adds, 0

    def __call__(self, feed: dict[str, Any]) -> dict[str, Any]:
        self.runs += 1
        return {"out": feed[self.reads] + self.adds}


@pytest.fixture
def pieces() -> dict[bool, list[Piece]]:
    reads = ("input_ids", "a", "b")
    return {
        True: [Piece(name, 10.0 ** (i + 1)) for i, name in enumerate(reads)],
        False: [Piece(name, 0.1**i) for i, name in enumerate(reads)],
    }


@pytest.fixture
def mixed(pieces: dict[bool, Any]) -> MixedModel:
    return MixedModel(pieces[True], pieces[False], ("a", "b"), FEEDS)


def test_a_mix_is_the_pieces_it_names_one_after_another(mixed: MixedModel) -> None:
    first, second = mixed.outputs((True, False, True))
    np.testing.assert_allclose(first, [[1 + 10 + 0.1 + 1000, 2 + 10 + 0.1 + 1000]])
    np.testing.assert_allclose(second, [[5 + 10 + 0.1 + 1000]])


def test_what_two_mixes_begin_with_alike_is_run_once(
    mixed: MixedModel, pieces: dict[bool, list[Piece]]
) -> None:
    for mix in ((True, True, True), (True, True, False), (True, False, True), (True, True, False)):
        list(mixed.outputs(mix))
    assert pieces[True][0].runs == len(FEEDS)
    assert pieces[True][1].runs == len(FEEDS), "the original's own way is kept"
