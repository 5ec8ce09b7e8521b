"""Say how sure an accuracy is, and a difference of two on the same documents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Right: TypeAlias = NDArray[np.float64]  # [documents], 1 where the answer is right, else 0


@dataclass(frozen=True)
class Accuracies:
    """The accuracies of an original and a result on the same documents, each from 0 to 1.

    The difference is result - original. Its standard error is that of the documents' own
    differences, so it is smaller than the two accuracies' errors would make it. `lost` documents
    only the original got right, `gained` ones only the result; `p_value` is the chance of a split
    at least as uneven where both are equally good: McNemar's exact test, two-sided.
    """

    original: float
    original_error: float
    result: float
    result_error: float
    difference: float
    difference_error: float
    lost: int
    gained: int
    p_value: float


@dataclass(frozen=True)
class MeanAccuracies:
    """Means over tasks, each counted once, and the standard error of their difference."""

    original: float
    result: float
    difference: float
    difference_error: float


def accuracies(original: Right, result: Right) -> Accuracies:
    """Return both accuracies on the same documents. A nan, of an undecided answer, stays nan."""
    lost, gained = int((original > result).sum()), int((result > original).sum())
    return Accuracies(
        original=float(original.mean()),
        original_error=standard_error(original),
        result=float(result.mean()),
        result_error=standard_error(result),
        difference=float((result - original).mean()),
        difference_error=standard_error(result - original),
        lost=lost,
        gained=gained,
        p_value=mcnemar(lost, gained),
    )


def standard_error(values: Right) -> float:
    """Return the standard error of the mean, with n - 1 in the variance; nan for one value."""
    if values.size < 2:
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(values.size))


def mcnemar(lost: int, gained: int) -> float:
    """Return the two-sided binomial probability of `lost` and `gained`, each being as likely."""
    both = lost + gained
    tail = sum(math.comb(both, count) for count in range(min(lost, gained) + 1))
    return min(1.0, float(2 * tail / 2**both))


def mean_accuracies(tasks: Sequence[Accuracies]) -> MeanAccuracies:
    """Return the unweighted means over tasks; their errors are independent."""
    count = len(tasks)
    return MeanAccuracies(
        original=sum(task.original for task in tasks) / count,
        result=sum(task.result for task in tasks) / count,
        difference=sum(task.difference for task in tasks) / count,
        difference_error=math.sqrt(sum(task.difference_error**2 for task in tasks)) / count,
    )
