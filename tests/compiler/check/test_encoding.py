"""Figures of two encoders are told exactly, and padding has no part in them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from castline.compiler.check.encoding import compare_encodings, padded_batches, rank_correlation
from castline.errors import OutputError

PASSAGES = [np.array(tokens, np.int64) for tokens in ([1, 2, 3, 4], [4, 1], [2, 2, 9, 1, 5], [7])]
TABLE = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)


class Lookup:
    """An encoder whose vectors stand in a table, and are anything at padding."""

    def __init__(self, table: np.ndarray, padding: float = 0.0) -> None:
        self.table = table
        self.padding = padding

    def hidden(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        return np.where(attention_mask[..., None] == 1, self.table[input_ids], self.padding)


def test_an_encoder_is_its_own_equal_whatever_stands_at_padding() -> None:
    found = compare_encodings(Lookup(TABLE, 5.0), Lookup(TABLE, np.nan), PASSAGES, 0)
    assert found.hidden_cosine == pytest.approx(1)
    assert found.worst_embedding_cosine == pytest.approx(1)
    assert found.relative_error == 0
    assert found.similarity_correlation == 1
    assert (found.tokens, found.passages) == (12, 4)


def test_a_scale_changes_lengths_and_no_direction() -> None:
    found = compare_encodings(Lookup(TABLE), Lookup(1.5 * TABLE), PASSAGES, 0)
    assert found.relative_error == pytest.approx(0.5)
    assert found.worst_hidden_cosine == pytest.approx(1)
    assert found.similarity_correlation == pytest.approx(1)


def test_one_vector_that_is_wrong_is_seen_in_the_worst_and_weighs_little_in_the_mean() -> None:
    wrong = TABLE.copy()
    wrong[9] = -TABLE[9]
    found = compare_encodings(Lookup(TABLE), Lookup(wrong), PASSAGES, 0)
    assert found.worst_hidden_cosine == pytest.approx(-1)
    assert found.hidden_cosine == pytest.approx((11 - 1) / 12)
    text, flipped = TABLE[PASSAGES[2]].mean(0), wrong[PASSAGES[2]].mean(0)
    cosine = text @ flipped / np.linalg.norm(text) / np.linalg.norm(flipped)
    assert found.worst_embedding_cosine == pytest.approx(cosine, rel=1e-5)
    assert found.embedding_cosine == pytest.approx((3 + cosine) / 4, rel=1e-5)


def test_texts_whose_order_of_nearness_changes_are_told() -> None:
    table = np.eye(6, dtype=np.float32)[np.arange(10) % 6]
    other = np.random.default_rng(1).permutation(table + TABLE)
    found = compare_encodings(Lookup(table), Lookup(other), PASSAGES, 0)
    assert found.similarity_correlation < 0.9


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_make_every_figure_nan(value: float) -> None:
    broken = TABLE.copy()
    broken[3, 0] = value
    found = compare_encodings(Lookup(TABLE), Lookup(broken), PASSAGES, 0)
    figures = (found.hidden_cosine, found.worst_hidden_cosine, found.embedding_cosine)
    assert all(math.isnan(figure) for figure in (*figures, found.similarity_correlation))
    assert not math.isfinite(found.relative_error)


def test_another_model_is_refused() -> None:
    with pytest.raises(OutputError, match="vectors of 5 and the original of 6"):
        compare_encodings(Lookup(TABLE), Lookup(TABLE[:, :5]), PASSAGES, 0)


def test_batches_are_filled_up_on_the_right() -> None:
    ((input_ids, mask),) = padded_batches(PASSAGES[:2], 8)
    assert input_ids.tolist() == [[1, 2, 3, 4], [4, 1, 8, 8]]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    sizes = [len(batch) for batch, _ in padded_batches(PASSAGES * 9, 8)]
    assert sizes == [16, 16, 4]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 400], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),
        ([1, 1, 2], [1, 1, 2], 1.0),
        ([1, 1, 2, 3], [5, 6, 7, 8], 4.5 / math.sqrt(4.5 * 5)),
    ],
)
def test_ranks_are_correlated_and_equal_values_share_theirs(
    a: list[float], b: list[float], expected: float
) -> None:
    assert rank_correlation(np.array(a, float), np.array(b, float)) == pytest.approx(expected)


@pytest.mark.parametrize(("a", "b"), [([1.0, 1, 1], [1.0, 2, 3]), ([1.0, 2, np.nan], [1.0, 2, 3])])
def test_what_ranks_nothing_has_no_correlation(a: list[float], b: list[float]) -> None:
    assert math.isnan(rank_correlation(np.array(a), np.array(b)))
