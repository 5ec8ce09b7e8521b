"""Answers are the likeliest choices, and both models are asked the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.check.original import OriginalModel
from castline.compiler.check.tasks.answers import Answers, answers, compare_answers, summed_up
from castline.compiler.check.tasks.pairs import PairEncoder
from castline.compiler.check.tasks.readers import OriginalReader
from castline.compiler.check.tasks.task import Document, Request, Task


def document(context: str, label: int, *choices: str) -> Document:
    return Document(tuple(Request(context, f" {choice}") for choice in choices), label)


TASK = Task(
    "words",
    (
        document("w3 w9 w27", 0, "w1", "w4 w2 w8"),
        document("w5", 1, "w6 w7", "w8", "w100 w101 w102 w103"),
        document("w81 w2 w77 w30", 1, "w40 w41", "w42 w43 w44 w45"),
    ),
)


def reference(model: torch.nn.Module, ids: dict[str, int], one: Document) -> list[float]:
    """Return the log likelihood of each choice by torch, from the whole sequence."""
    logs = []
    for request in one.requests:
        before = [ids[word] for word in request.context.split()]
        after = [ids[word] for word in request.continuation.split()]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([before + after])).logits[0]
        scores = logits.double().log_softmax(-1)
        logs.append(sum(float(scores[len(before) - 1 + i, token]) for i, token in enumerate(after)))
    return logs


def test_choices_are_those_of_whole_sequences(tiny: Callable[[str], Any]) -> None:
    checkpoint = tiny("llama").checkpoint
    original = OriginalModel.load(checkpoint)
    found = answers(
        OriginalReader(original), TASK, PairEncoder(checkpoint.tokenizer(), 512), who="the original"
    )
    ids = checkpoint.tokenizer().get_vocab()
    logs = [reference(original.model, ids, one) for one in TASK.documents]
    lengths = [[len(one.continuation) - 1 for one in doc.requests] for doc in TASK.documents]
    normalized = [np.array(log) / length for log, length in zip(logs, lengths, strict=True)]
    assert found.likeliest.tolist() == [int(np.argmax(log)) for log in logs]
    assert found.likeliest_a_character.tolist() == [int(np.argmax(log)) for log in normalized]
    assert found.likeliest.tolist() != found.likeliest_a_character.tolist()


def chosen(*places: int, by_length: Sequence[int] = (0, 1, 1)) -> Answers:
    return Answers(np.array(places), np.array(by_length))


def test_figures_are_of_the_same_documents() -> None:
    found = compare_answers(TASK, chosen(0, 1, 0), chosen(0, 2, 1))
    assert (found.task, found.documents) == ("words", 3)
    assert (found.acc.original, found.acc.result) == (2 / 3, 2 / 3)
    assert (found.acc.lost, found.acc.gained) == (1, 1)
    assert (found.acc_norm.original, found.acc_norm.result) == (1, 1)
    assert found.same_choice == 1 / 3


def test_means_are_over_tasks() -> None:
    one = compare_answers(TASK, chosen(0, 1, 1), chosen(0, 1, 1))
    other = compare_answers(TASK, chosen(0, 1, 1), chosen(1, 1, 1))
    found = summed_up([one, other])
    assert found.tasks == (one, other)
    assert found.mean_acc.result == pytest.approx((1 + 2 / 3) / 2)
    assert found.mean_acc_norm.difference == 0


class Broken:
    """A model whose logits are not numbers after the token 8, and else all alike."""

    def continued(
        self, context: np.ndarray, continuations: Sequence[np.ndarray]
    ) -> Iterator[np.ndarray]:
        for tokens in continuations:
            yield np.full((tokens.size, 160), np.nan if 8 in context else 0, np.float32)


def test_logits_that_are_not_numbers_decide_nothing(tiny: Callable[[str], Any]) -> None:
    encoder = PairEncoder(tiny("llama").checkpoint.tokenizer(), 512)
    found = answers(Broken(), TASK, encoder)
    assert found.likeliest.tolist() == [0, -1, 0]  # w5 is token 8
    assert math.isnan(compare_answers(TASK, found, found).acc.original)
