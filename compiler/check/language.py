"""Compare a language model with its original by what they predict on the same text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.errors import OutputError
from castline.progress import Progress, SilentProgress

Tokens: TypeAlias = NDArray[np.int64]
Logits: TypeAlias = NDArray[np.float32]
Figures: TypeAlias = NDArray[np.float64]

# float64 copies of 16 MB each: 8 positions of a vocabulary of 262144 tokens.
CHUNK_ELEMENTS = 2 * 2**20


class LanguageModel(Protocol):
    """What gives logits for tokens: the original, or a result on whatever runs it."""

    def logits(self, input_ids: Tokens) -> Logits:
        """Return the logits [B, S, V] of `input_ids` [B, S]."""
        ...


@dataclass(frozen=True)
class LanguageFigures:
    """How a result predicts text, beside its original, over `tokens` predicted tokens.

    Perplexity is exp of the mean negative log likelihood; KL divergence is the mean of
    KL(original || result) in nats a token; agreement is the share of tokens whose likeliest
    successor is the same in both. Logits that are not finite make them inf or nan.
    """

    perplexity_original: float
    perplexity: float
    kl_divergence: float
    top1_agreement: float
    tokens: int

    @property
    def perplexity_ratio(self) -> float:
        """The result's perplexity over the original's; nan where that means nothing."""
        if not math.isfinite(self.perplexity_original) or self.perplexity_original == 0:
            return math.nan
        return self.perplexity / self.perplexity_original


def compare_language(
    original: LanguageModel,
    result: LanguageModel,
    windows: Tokens,
    progress: Progress | None = None,
) -> LanguageFigures:
    """Return the figures of both models on `windows` [count, length], window by window.

    Each window is read from an empty cache; all its tokens but the first are predicted.
    """
    sums = np.zeros(4)
    count, length = windows.shape
    with (progress or SilentProgress()).stage(
        "Comparing with the original", total=windows.size, unit="tokens"
    ) as advance:
        for window in windows:
            one = window[None]
            sums += window_sums(original.logits(one)[0], result.logits(one)[0], window)
            advance(length)
    tokens = count * (length - 1)
    nll_original, nll, divergence, agreement = (sums / tokens).tolist()
    return LanguageFigures(
        perplexity_original=exponential(nll_original),
        perplexity=exponential(nll),
        kl_divergence=divergence,
        top1_agreement=agreement,
        tokens=tokens,
    )


def window_sums(original: Logits, result: Logits, window: Tokens) -> Figures:
    """Return four sums over the predicted tokens of one window, shape [4].

    They are the negative log likelihood of the original and of the result, KL(original || result),
    and the number of tokens on whose successor they agree. Logits are [length, V].
    """
    if original.shape != result.shape:
        raise OutputError(
            f"The result predicts {result.shape[1]} tokens and the original {original.shape[1]}: "
            "they are not the same model. Compare it with the checkpoint it was compiled from."
        )
    sums = np.zeros(4)
    for rows in row_chunks(len(window) - 1, original.shape[1]):
        sums += chunk_sums(original[rows], result[rows], window[1:][rows])
    return sums


def row_chunks(rows: int, width: int) -> Iterator[slice]:
    """Yield slices that cover `rows` rows of `width` elements, each within CHUNK_ELEMENTS."""
    step = max(1, CHUNK_ELEMENTS // width)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def chunk_sums(original: Logits, result: Logits, successors: Tokens) -> Figures:
    """Return the sums of `window_sums` for logits [rows, V] and the tokens that follow [rows]."""
    p = log_softmax(original)
    q = log_softmax(result)
    rows = np.arange(len(successors))
    with np.errstate(all="ignore"):
        # p log p is 0 where p is 0, though log p is -inf there.
        terms = np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q))
        return np.array(
            [
                -p[rows, successors].sum(),
                -q[rows, successors].sum(),
                terms.sum(),
                agreements(original, result),
            ]
        )


def agreements(original: Logits, result: Logits) -> float:
    """Return how many rows of [rows, V] have the same largest logit; nan if one has a nan."""
    if np.isnan(original).any() or np.isnan(result).any():
        return math.nan
    return float((original.argmax(axis=1) == result.argmax(axis=1)).sum())


def log_softmax(logits: Logits) -> Figures:
    """Return the log probabilities of each row [rows, V] in float64.

    A logit of -inf is a probability of 0; a row with nan or +inf becomes nan.
    """
    with np.errstate(all="ignore"):
        shifted = logits.astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return shifted


def exponential(value: float) -> float:
    """Return exp(value), which is inf where it is beyond what a float holds."""
    with np.errstate(over="ignore"):
        return float(np.exp(value))
