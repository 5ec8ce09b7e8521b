"""Say how likely each continuation is after its context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from castline.compiler.check.language import log_softmax
from castline.compiler.check.tasks.pairs import TokenPair
from castline.compiler.check.tasks.readers import Logits, Reader


@dataclass(frozen=True)
class Likelihood:
    """The log probability of a continuation in nats, and whether it is the likeliest one."""

    log: float
    greedy: bool
    """Whether each of its tokens is the likeliest after those before it."""


def likelihoods(reader: Reader, pairs: Sequence[TokenPair]) -> Iterator[Likelihood]:
    """Yield the likelihood of each pair in order; neighbours with one context read it once."""
    for context, group in groupby(pairs, key=lambda pair: pair.context):
        asked = [np.array(pair.continuation, dtype=np.int64) for pair in group]
        for tokens, logits in zip(
            asked, reader.continued(np.array(context, dtype=np.int64), asked), strict=True
        ):
            yield _likelihood(logits, tokens.tolist())


def _likelihood(logits: Logits, tokens: Sequence[int]) -> Likelihood:
    places = np.arange(len(tokens))
    log = float(log_softmax(logits)[places, tokens].sum())
    return Likelihood(log, bool((logits.argmax(axis=1) == tokens).all()))
