"""Put documents into a model's chat template, and pack them into samples of tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import jinja2
import numpy as np
from numpy.typing import NDArray

from castline.compiler.calibration.dataset import Row
from castline.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens: TypeAlias = NDArray[np.int64]

_TODAY = re.compile(r"""strftime_now\(\s*(?P<quote>["'])(?P<form>.*?)(?P=quote)\s*\)""")
# A template that says today's date would make tomorrow's plan another.
_DAY = datetime(2024, 7, 26, tzinfo=UTC)


def conversation_samples(
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Row],
    *,
    length: int,
    count: int,
    seed: int,
) -> Tokens:
    """Return `count` samples of `length` tokens, [count, length], as chats with the model.

    A document is a text, which becomes a user's message, or a list of messages. They are taken in
    random order. A sample begins with the beginning of one, and others follow until it is full; the
    last is cut off. Raises RecipeError for a tokenizer without a chat template, for a document that
    the template refuses, and for too few documents, with the number of samples they fill.
    """
    template = _undated(tokenizer)
    order = np.random.default_rng(seed).permutation(len(documents))
    chats = (_chat(tokenizer, template, documents[index], int(index)) for index in order)
    samples = list(islice(_packed(chats, length), count))
    if len(samples) < count:
        raise RecipeError(
            f"The text is too short: {count} samples of {length} tokens were asked for, and its "
            f"{len(documents)} documents fill {len(samples)}, put into the chat template. Give a "
            "longer text, fewer samples or shorter ones."
        )
    return np.array(samples, dtype=np.int64)


def _packed(chats: Iterable[list[int]], length: int) -> Iterator[list[int]]:
    sample: list[int] = []
    for chat in chats:
        sample += chat
        if len(sample) >= length:
            yield sample[:length]
            sample = []


def _undated(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template, in which it is the same day on every day."""
    if not tokenizer.chat_template:
        raise RecipeError(
            "The tokenizer of the model has no chat template. Set chat_template to false, or give "
            "a checkpoint with one, as models tuned for chat have."
        )
    try:
        template: str = tokenizer.get_chat_template()
    except ValueError as error:
        raise RecipeError(
            f"The model's chat template: {error} Set chat_template to false."
        ) from error
    return _TODAY.sub(lambda found: repr(_DAY.strftime(found["form"])), template)


def _chat(
    tokenizer: PreTrainedTokenizerBase, template: str, document: Row, index: int
) -> list[int]:
    messages = (
        [{"role": "user", "content": document.strip()}] if isinstance(document, str) else document
    )
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], chat_template=template, tokenize=False
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
        raise RecipeError(
            f"The model's chat template cannot be applied to document {index} of the calibration "
            f"text: {error}. Change that document, or set chat_template to false."
        ) from error
    encoded: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return encoded
