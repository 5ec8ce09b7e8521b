"""Compare an encoder with its original by the vectors they give to the same text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.errors import OutputError
from castline.progress import Progress, SilentProgress

Tokens: TypeAlias = NDArray[np.int64]
Hidden: TypeAlias = NDArray[np.float32]
Figures: TypeAlias = NDArray[np.float64]

_ROWS = 16  # passages that are read at once


class Encoder(Protocol):
    """What gives a vector for each token: the original, or a result on whatever runs it."""

    def hidden(self, input_ids: Tokens, attention_mask: Tokens) -> Hidden:
        """Return the last hidden state [B, S, hidden] of `input_ids` [B, S]."""
        ...


@dataclass(frozen=True)
class EncodingFigures:
    """How a result encodes text, beside its original, over `tokens` tokens of `passages` texts.

    A hidden cosine is that of the two vectors of one token, an embedding cosine that of the two
    means of a text's vectors; both are given as mean and as worst. The relative error is
    |result - original| / |original| over all vectors. The similarity correlation is Spearman's, of
    the cosines between the embeddings of every two texts: 1 where the result finds the same texts
    nearer to each other than others. Vectors that are not finite make them nan.
    """

    hidden_cosine: float
    worst_hidden_cosine: float
    relative_error: float
    embedding_cosine: float
    worst_embedding_cosine: float
    similarity_correlation: float
    tokens: int
    passages: int


def compare_encodings(
    original: Encoder,
    result: Encoder,
    passages: Sequence[Tokens],
    padding: int,
    progress: Progress | None = None,
) -> EncodingFigures:
    """Return the figures of both models on `passages`, tokens [S] each, at least three.

    They are read in batches, the shorter ones filled up on their right with the token `padding`,
    which is masked and not compared.
    """
    tokens = sum(passage.size for passage in passages)
    cosines: list[Figures] = []
    embeddings: list[Figures] = []
    squares = np.zeros(2)
    with (progress or SilentProgress()).stage(
        "Comparing with the original", total=tokens, unit="tokens"
    ) as advance:
        for input_ids, mask in padded_batches(passages, padding):
            pair = _both(original, result, input_ids, mask)
            for row, real in zip(pair, mask.astype(bool), strict=True):
                vectors = row[:, real]
                cosines.append(cosine(*vectors))
                embeddings.append(vectors.mean(axis=1))
                squares += _squared_lengths(*vectors)
            advance(int(mask.sum()))
    of_tokens, means = np.concatenate(cosines), np.stack(embeddings, axis=1)
    of_texts = cosine(*means)
    with np.errstate(all="ignore"):
        relative_error = float(np.sqrt(squares[0] / squares[1]))
    return EncodingFigures(
        hidden_cosine=float(of_tokens.mean()),
        worst_hidden_cosine=float(of_tokens.min()),
        relative_error=relative_error,
        embedding_cosine=float(of_texts.mean()),
        worst_embedding_cosine=float(of_texts.min()),
        similarity_correlation=rank_correlation(*map(similarities, means)),
        tokens=tokens,
        passages=len(passages),
    )


def padded_batches(passages: Sequence[Tokens], padding: int) -> Iterator[tuple[Tokens, Tokens]]:
    """Yield tokens [B, S] and their mask [B, S], in order; padding stands on the right."""
    for start in range(0, len(passages), _ROWS):
        rows = passages[start : start + _ROWS]
        shape = len(rows), max(row.size for row in rows)
        input_ids, mask = np.full(shape, padding, np.int64), np.zeros(shape, np.int64)
        for index, row in enumerate(rows):
            input_ids[index, : row.size] = row
            mask[index, : row.size] = 1
        yield input_ids, mask


def cosine(a: Figures, b: Figures) -> Figures:
    """Return the cosines [rows] of the rows of `a` and `b`, [rows, width]; nan for no direction."""
    with np.errstate(all="ignore"):
        lengths = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
        result: Figures = np.minimum((a * b).sum(axis=-1) / lengths, 1.0)
    return result


def similarities(embeddings: Figures) -> Figures:
    """Return the cosine of every two of `embeddings` [texts, width], texts * (texts - 1) / 2."""
    with np.errstate(all="ignore"):
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    first, second = np.triu_indices(len(embeddings), k=1)
    result: Figures = (unit[first] * unit[second]).sum(axis=1)
    return result


def rank_correlation(a: Figures, b: Figures) -> float:
    """Return Spearman's correlation of two lists, 1 if they are equal; nan if one has a nan.

    Where one list is all alike, it ranks nothing, and the correlation is nan.
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    if np.array_equal(a, b):
        return 1.0
    x, y = (_ranks(values) - (len(values) + 1) / 2 for values in (a, b))
    with np.errstate(all="ignore"):
        return float((x @ y) / np.sqrt((x @ x) * (y @ y)))


def _ranks(values: Figures) -> Figures:
    """Return each value's place from 1 on, equal values sharing the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Figures = (counts.cumsum() - (counts - 1) / 2)[group]
    return ranks


def _both(original: Encoder, result: Encoder, input_ids: Tokens, mask: Tokens) -> Figures:
    """Return the vectors of both, [B, 2, S, hidden], in float64."""
    one, other = original.hidden(input_ids, mask), result.hidden(input_ids, mask)
    if one.shape != other.shape:
        raise OutputError(
            f"The result gives vectors of {other.shape[-1]} and the original of {one.shape[-1]}: "
            "they are not the same model. Compare it with the checkpoint it was compiled from."
        )
    return np.stack([one, other], axis=1).astype(np.float64)


def _squared_lengths(original: Figures, result: Figures) -> Figures:
    with np.errstate(all="ignore"):
        return np.array([((result - original) ** 2).sum(), (original**2).sum()])
