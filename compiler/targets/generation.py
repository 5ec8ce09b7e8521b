"""Generate text token by token, with whatever runs a decoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.targets.sampling import Sampling, next_token
from castline.errors import TargetError

Tokens: TypeAlias = NDArray[np.int64]

GREEDY = Sampling()


class Runner(Protocol):
    """A loaded model that generates text, on whatever runtime."""

    def generate(
        self,
        input_ids: Tokens,
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop: frozenset[int] = frozenset(),
    ) -> Iterator[int]:
        """Yield what follows the prompt `input_ids` [1, S], token by token.

        Ends before the first token in `stop`, after `max_new_tokens`, or when the model's context
        is full, whichever comes first.
        """
        ...


class Steps(Protocol):
    """Sequences being decoded."""

    def step(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> NDArray[np.float32]:
        """Return logits [B, S or 1, V], the last row of which follows the tokens `input_ids`."""
        ...


class Decoder(Protocol):
    """A loaded decoder that is stepped from here."""

    @property
    def context_length(self) -> int | None:
        """How many tokens a sequence may have; None: nobody says."""
        ...

    def begin(self, batch: int, capacity: int) -> Steps:
        """Begin `batch` sequences that will have at most `capacity` tokens."""
        ...


def following_tokens(
    decoder: Decoder,
    input_ids: Tokens,
    *,
    max_new_tokens: int,
    sampling: Sampling,
    stop: frozenset[int],
) -> Iterator[int]:
    """Yield what follows the prompt `input_ids` [1, S]; ends as `Runner.generate` says."""
    prompt, capacity = room_for(input_ids, max_new_tokens, decoder.context_length)
    decoding = decoder.begin(1, max(capacity, prompt))
    random = np.random.default_rng(sampling.seed)
    seen, new = input_ids, input_ids
    for _ in range(capacity - prompt):
        token = next_token(decoding.step(new)[0, -1], sampling, seen, random)
        if token in stop:
            return
        yield token
        new = np.array([[token]], dtype=np.int64)
        seen = np.concatenate([seen, new], axis=1)


def room_for(input_ids: Tokens, max_new_tokens: int, context_length: int | None) -> tuple[int, int]:
    """Return the tokens of a prompt, and those of it and all that may follow."""
    prompt = input_ids.shape[1]
    if prompt == 0:
        raise TargetError("The prompt has no tokens. Give at least one.")
    wanted = prompt + max_new_tokens
    return prompt, min(wanted, context_length or wanted)
