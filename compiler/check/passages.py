"""Cut text into passages as encoders read them: sentences, and windows as long as they take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens: TypeAlias = NDArray[np.int64]

_FEWEST = 3  # how alike texts are can be ranked from three pairs on
_SHORTEST = 4  # tokens of a sentence, its special tokens apart
_CHARACTERS = 16  # a token, on average, has fewer
# An end, with its quotation mark, before a space; ends that need none after them; an empty line.
_SENTENCE_ENDS = re.compile(r"(?<=[.!?…])\s+|(?<=[.!?…][\"'”’)])\s+|(?<=[。！？])|\n\s*\n")


def token_passages(
    tokenizer: PreTrainedTokenizerBase, text: str, *, length: int, sentences: int, windows: int
) -> tuple[Tokens, ...]:
    """Return passages of `text` as tokens [S], S at most `length`, special tokens included.

    They are the first `sentences` sentences, then as many windows of `length` tokens as the text
    fills, at most `windows`, from places evenly apart. Raises RecipeError if all that is too few
    passages to compare.
    """
    found = [
        *_first_sentences(tokenizer, text, length, sentences),
        *_windows(tokenizer, text, length, windows),
    ]
    if len(found) < _FEWEST:
        raise RecipeError(
            f"The text is too short: sentences and windows of {length} tokens in it are "
            f"{len(found)} together, and at least {_FEWEST} are compared. Give a longer text."
        )
    return tuple(found)


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text; of a text without sentences, its lines."""
    found = [" ".join(part.split()) for part in _SENTENCE_ENDS.split(text)]
    found = [sentence for sentence in found if sentence]
    return found if len(found) > 1 else [line.strip() for line in text.splitlines() if line.strip()]


def _first_sentences(
    tokenizer: PreTrainedTokenizerBase, text: str, length: int, count: int
) -> Iterator[Tokens]:
    special = len(tokenizer("")["input_ids"])
    for sentence in sentences_of(text):
        if count == 0:
            return
        tokens = _tokens(tokenizer, sentence, length)
        if tokens.size - special >= _SHORTEST:
            yield tokens
            count -= 1


def _windows(
    tokenizer: PreTrainedTokenizerBase, text: str, length: int, count: int
) -> Iterator[Tokens]:
    for index in range(count):
        begin = index * len(text) // count
        tokens = _tokens(tokenizer, text[begin : begin + _CHARACTERS * length], length)
        if tokens.size == length:
            yield tokens


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> Tokens:
    encoded = tokenizer(text, truncation=True, max_length=length)["input_ids"]
    return np.array(encoded, dtype=np.int64)
