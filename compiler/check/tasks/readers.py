"""Read a context once and each of its continuations after it, in torch or on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from castline.compiler.check.original import OriginalModel
from castline.compiler.targets.session import DecoderSession
from castline.errors import TargetError
from castline.exporters.torch_model import token_inputs

Tokens: TypeAlias = NDArray[np.int64]
Logits: TypeAlias = NDArray[np.float32]


class Reader(Protocol):
    """What says how likely continuations are."""

    def continued(self, context: Tokens, continuations: Sequence[Tokens]) -> Iterator[Logits]:
        """Yield for each continuation [C] the logits [C, V] that predict its tokens.

        `context` [S] is read once, and has at least one token, as have the continuations.
        """
        ...


@dataclass(frozen=True)
class OriginalReader:
    """Reads with a checkpoint in torch."""

    original: OriginalModel

    def continued(self, context: Tokens, continuations: Sequence[Tokens]) -> Iterator[Logits]:
        first, past = self._step(context, None, 0)
        for tokens in continuations:
            if tokens.size == 1:
                yield first[-1:]
                continue
            # A cache of a window cannot be cut back, so what follows goes into a copy.
            rest, _ = self._step(tokens[:-1], deepcopy(past), context.size)
            yield np.concatenate([first[-1:], rest])

    def _step(self, tokens: Tokens, past: object, before: int) -> tuple[Logits, object]:
        """Return the logits [S, V] of `tokens` [S] after `before` others, and the new past."""
        model = self.original.model
        mask = torch.ones((1, before + tokens.size), dtype=torch.long)
        with torch.inference_mode():
            inputs = token_inputs(model, torch.from_numpy(tokens[None]), mask)
            output = model(**inputs, past_key_values=past, use_cache=True)
        return output.logits[0].float().numpy(), output.past_key_values


@dataclass(frozen=True)
class SessionReader:
    """Reads with a graph on ONNX Runtime."""

    session: DecoderSession

    def continued(self, context: Tokens, continuations: Sequence[Tokens]) -> Iterator[Logits]:
        longest = max(tokens.size for tokens in continuations)
        decoding = self.session.begin(1, context.size + longest - 1)
        first = decoding.step(context[None])[0, -1:]
        place = decoding.mark()
        for tokens in continuations:
            if tokens.size == 1:
                yield first
                continue
            decoding.rewind(place)
            rest = decoding.step(tokens[None, :-1])[0]
            if len(rest) != tokens.size - 1:
                raise TargetError(
                    f"The model gives logits for {len(rest)} of {tokens.size - 1} tokens, and a "
                    "task needs those of all. Compile it with the logits of every token."
                )
            yield np.concatenate([first, rest])
