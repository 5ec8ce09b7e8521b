"""Cut text into windows of tokens: the first ones, or ones from places chosen at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens: TypeAlias = NDArray[np.int64]

_CHARACTERS = 16  # a token, on average, has fewer


def token_windows(
    tokenizer: PreTrainedTokenizerBase, text: str, *, length: int, count: int
) -> Tokens:
    """Return the first `count` windows of `length` tokens of `text`, [count, length].

    The windows do not overlap. Each begins with the token the tokenizer begins every text with, if
    it has one: models trained with it predict badly without. Raises RecipeError if the text is too
    short, or if no window would hold any of it.
    """
    begin = beginning(tokenizer)
    body = _body(length, count, len(begin))
    tokens = _encoded(tokenizer, text)
    if tokens.size < count * body:
        raise RecipeError(
            f"The text is too short: {count} windows of {length} tokens need {count * body} "
            f"tokens of text, and it has {tokens.size}. Give a longer text, fewer windows or "
            "shorter ones."
        )
    return _between(begin, tokens[: count * body].reshape(count, body), [])


def random_windows(
    tokenizer: PreTrainedTokenizerBase, text: str, *, length: int, count: int, seed: int
) -> Tokens:
    """Return `count` windows of `length` tokens from random places in `text`, [count, length].

    The windows do not overlap, and come in the order of the text. Each begins, and for an encoder
    ends, with the tokens that the tokenizer puts around every text. Of a text that is far longer
    than they need, random parts alone are read. Raises RecipeError as token_windows, with the
    number of windows that there is text for.
    """
    begin, end = beginning(tokenizer), ending(tokenizer)
    body = _body(length, count, len(begin) + len(end))
    random = np.random.default_rng(seed)
    excerpt = _excerpt(text, _CHARACTERS * length, count, random)
    tokens = _encoded(tokenizer, excerpt)
    if tokens.size < count * body and excerpt != text:
        tokens = _encoded(tokenizer, text)  # few tokens in many characters, such as blanks
    spare = tokens.size - count * body
    if spare < 0:
        raise RecipeError(
            f"The text is too short: {count} samples of {length} tokens need {count * body} tokens "
            f"of text, and it has {tokens.size}, enough for {tokens.size // body}. Give a longer "
            "text, fewer samples or shorter ones."
        )
    # Sorted places in the spare tokens, pushed apart by the windows before them.
    starts = np.sort(random.integers(0, spare, count, endpoint=True)) + body * np.arange(count)
    return _between(begin, tokens[starts[:, None] + np.arange(body)], end)


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token put before every text as a list, which is empty if there is none."""
    tokens: list[int] = tokenizer("")["input_ids"]
    first = (tokenizer.bos_token_id, tokenizer.cls_token_id)
    return [token for token in tokens[:1] if token in first]


def ending(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token that an encoder's texts end with as a list, which is empty for a decoder."""
    tokens: list[int] = tokenizer("")["input_ids"]
    return [token for token in tokens[1:][-1:] if token == tokenizer.sep_token_id]


def _body(length: int, count: int, special: int) -> int:
    """Return how many tokens of text a window holds."""
    if length <= special or count < 1:
        raise RecipeError(
            f"{count} windows of {length} tokens asked for; expected at least 1 window of at least "
            f"{special + 1} tokens."
        )
    return length - special


def _excerpt(text: str, span: int, count: int, random: np.random.Generator) -> str:
    """Return the text, or `count` random parts of it of `span` characters, in their order."""
    spans = -(-len(text) // span)
    if spans <= count:
        return text
    chosen = np.sort(random.choice(spans, count, replace=False))
    return "\n\n".join(text[index * span : (index + 1) * span] for index in chosen)


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> Tokens:
    encoded = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return np.array(encoded, dtype=np.int64)


def _between(begin: list[int], bodies: Tokens, end: list[int]) -> Tokens:
    count = len(bodies)
    sides = (np.tile(np.array(tokens, dtype=np.int64), (count, 1)) for tokens in (begin, end))
    before, after = sides
    return np.concatenate([before, bodies, after], axis=1)
