"""Let a model answer the documents of a task, and compare the answers of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.check.tasks.likelihood import likelihoods
from castline.compiler.check.tasks.pairs import PairEncoder
from castline.compiler.check.tasks.readers import Reader
from castline.compiler.check.tasks.statistics import (
    Accuracies,
    MeanAccuracies,
    Right,
    accuracies,
    mean_accuracies,
)
from castline.compiler.check.tasks.task import Document, Task
from castline.progress import Progress, SilentProgress

Choices: TypeAlias = NDArray[np.int64]  # [documents], the place of what was chosen

UNDECIDED = -1


@dataclass(frozen=True)
class Answers:
    """What a model chose in each document, [documents]; -1 where a likelihood is nan."""

    likeliest: Choices
    """The choice of the largest log likelihood."""
    likeliest_a_character: Choices
    """The choice of the largest log likelihood over its length."""


@dataclass(frozen=True)
class TaskFigures:
    """How an original and a result answer the same documents of one task.

    `acc` takes the likeliest choice; `acc_norm` the likeliest a character, as
    lm-evaluation-harness's figure of that name does. `same_choice` is the share of documents in
    which both take the same, right or wrong.
    """

    task: str
    documents: int
    acc: Accuracies
    acc_norm: Accuracies
    same_choice: float


@dataclass(frozen=True)
class TasksFigures:
    """All tasks, and their means."""

    tasks: tuple[TaskFigures, ...]
    mean_acc: MeanAccuracies
    mean_acc_norm: MeanAccuracies


def answers(
    reader: Reader,
    task: Task,
    encoder: PairEncoder,
    progress: Progress | None = None,
    who: str = "",
) -> Answers:
    """Return what the model behind `reader` chooses; `who` is named in the progress."""
    progress = progress or SilentProgress()
    title = f"Answering {task.name}{f', {who}' if who else ''}"
    chosen = []
    with progress.stage(title, total=len(task.documents), unit="documents") as advance:
        for document in task.documents:
            chosen.append(_choices(reader, document, encoder))
            advance(1)
    return Answers(*np.array(chosen, dtype=np.int64).T)


def compare_answers(task: Task, original: Answers, result: Answers) -> TaskFigures:
    """Return the accuracies of two models on a task."""
    labels = np.array([document.label for document in task.documents])
    both = original.likeliest, result.likeliest
    by_length = original.likeliest_a_character, result.likeliest_a_character
    return TaskFigures(
        task=task.name,
        documents=len(task.documents),
        acc=accuracies(*(_right(choices, labels) for choices in both)),
        acc_norm=accuracies(*(_right(choices, labels) for choices in by_length)),
        same_choice=float((both[0] == both[1]).mean()),
    )


def summed_up(tasks: Sequence[TaskFigures]) -> TasksFigures:
    """Return the figures of at least one task, with means over all."""
    return TasksFigures(
        tuple(tasks),
        mean_accuracies([task.acc for task in tasks]),
        mean_accuracies([task.acc_norm for task in tasks]),
    )


def _choices(reader: Reader, document: Document, encoder: PairEncoder) -> tuple[int, int]:
    pairs = [encoder.encode(request) for request in document.requests]
    logs = np.array([likelihood.log for likelihood in likelihoods(reader, pairs)])
    if np.isnan(logs).any():
        return UNDECIDED, UNDECIDED
    lengths = np.array([request.length for request in document.requests])
    return int(logs.argmax()), int((logs / lengths).argmax())


def _right(choices: Choices, labels: Choices) -> Right:
    right: Right = (choices == labels).astype(np.float64)
    right[choices == UNDECIDED] = np.nan
    return right
