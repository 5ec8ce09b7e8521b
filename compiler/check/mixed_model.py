"""Run a mix of two models: some pieces of the one, the others of the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.check.graph_run import GraphRun
from castline.compiler.check.original_runner import Feed

Array: TypeAlias = NDArray[np.generic]
Mix: TypeAlias = tuple[bool, ...]
"""For every piece, whether it is the original's."""


class MixedModel:
    """Two models in pieces that hand on one hidden state each, and texts that they read.

    Of the hidden states those on the way of the original and of the last mix are kept, so that a
    mix which begins as one of them is run from there on.
    """

    def __init__(
        self,
        original: Sequence[GraphRun],
        result: Sequence[GraphRun],
        handed_on: Sequence[str],
        feeds: Sequence[Feed],
    ) -> None:
        """Take pieces as `pieces` cuts them; `handed_on` names what lies between them."""
        assert len(original) == len(result) == len(handed_on) + 1, "they are cut alike"
        self._runs = {True: tuple(original), False: tuple(result)}
        self._handed_on = tuple(handed_on)
        self._feeds = tuple(feeds)
        self._states: dict[Mix, list[Array]] = {}

    @property
    def count(self) -> int:
        """How many pieces there are."""
        return len(self._handed_on) + 1

    def outputs(self, mix: Mix) -> Iterator[Array]:
        """Yield the output of the last piece for each text in turn."""
        assert len(mix) == self.count, "a mix says of every piece whose it is"
        states = self.states(mix[:-1])
        for feed, state in zip(self._feeds, states, strict=True):
            yield self._run(mix, feed, state)

    def states(self, mix: Mix) -> list[Array]:
        """Return the hidden state [B, S, hidden] after so many pieces, for each text."""
        known = len(mix)
        while known and mix[:known] not in self._states:
            known -= 1
        for length in range(known + 1, len(mix) + 1):
            before = self._states.get(mix[: length - 1], [None] * len(self._feeds))
            self._states[mix[:length]] = [
                self._run(mix[:length], feed, state)
                for feed, state in zip(self._feeds, before, strict=True)
            ]
        self._forget(mix)
        return self._states[mix]

    def _run(self, mix: Mix, feed: Feed, state: Array | None) -> Array:
        """Run the last piece of a mix on what the one before it gave."""
        place = len(mix) - 1
        given = {} if state is None else {self._handed_on[place - 1]: state}
        (output,) = self._runs[mix[-1]][place]({**feed, **given}).values()
        return output

    def _forget(self, mix: Mix) -> None:
        kept = (mix, (True,) * self.count)
        self._states = {
            way: states
            for way, states in self._states.items()
            if any(way == one[: len(way)] for one in kept)
        }
