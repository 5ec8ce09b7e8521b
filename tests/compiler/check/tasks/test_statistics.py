"""Errors and differences are those worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from castline.compiler.check.tasks.statistics import accuracies, mcnemar, mean_accuracies

# Eight documents: 4 right in both, 2 lost, 1 gained, 1 wrong in both.
ORIGINAL = np.array([1, 1, 1, 1, 1, 1, 0, 0], dtype=float)
RESULT = np.array([1, 1, 1, 1, 0, 0, 1, 0], dtype=float)


def test_paired_figures_by_hand() -> None:
    found = accuracies(ORIGINAL, RESULT)
    assert (found.original, found.result, found.difference) == (6 / 8, 5 / 8, -1 / 8)
    assert (found.lost, found.gained) == (2, 1)
    # The variance of 0s and 1s with n - 1 is n p (1 - p) / (n - 1).
    assert found.original_error == pytest.approx(math.sqrt(0.75 * 0.25 / 7))
    assert found.result_error == pytest.approx(math.sqrt(0.625 * 0.375 / 7))
    # Differences -1, -1, 1 and five zeros: their squares sum to 3, their mean is -1/8.
    assert found.difference_error == pytest.approx(math.sqrt((3 / 8 - 1 / 64) / 7))


def test_what_both_answer_alike_differs_by_nothing() -> None:
    found = accuracies(ORIGINAL, ORIGINAL)
    assert (found.difference, found.difference_error, found.p_value) == (0, 0, 1)


@pytest.mark.parametrize(
    ("lost", "gained", "chance"),
    [(0, 0, 1), (1, 0, 1), (3, 3, 1), (6, 0, 2 / 64), (1, 7, 18 / 256), (7, 1, 18 / 256)],
)
def test_the_chance_of_an_uneven_split(lost: int, gained: int, chance: float) -> None:
    assert mcnemar(lost, gained) == pytest.approx(chance)


def test_undecided_answers_stay_nan() -> None:
    found = accuracies(ORIGINAL, np.where(RESULT == 1, np.nan, RESULT))
    assert math.isnan(found.result)
    assert math.isnan(found.difference_error)
    assert found.original == 0.75


def test_one_document_has_no_error() -> None:
    assert math.isnan(accuracies(np.ones(1), np.ones(1)).original_error)


def test_tasks_count_once_whatever_their_size() -> None:
    large, small = accuracies(np.ones(100), np.ones(100)), accuracies(ORIGINAL, RESULT)
    mean = mean_accuracies([large, small])
    assert (mean.original, mean.result) == (1.75 / 2, 1.625 / 2)
    assert mean.difference == -1 / 16
    assert mean.difference_error == pytest.approx(small.difference_error / 2)
