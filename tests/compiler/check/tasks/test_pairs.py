"""Requests become tokens as lm-evaluation-harness splits them."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from castline.compiler.check.tasks.pairs import PairEncoder, TokenPair
from castline.compiler.check.tasks.task import Request
from castline.errors import CheckpointError, OutputError

WORDS = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, " ": 5, " a": 6, " b": 7, "ab": 8}


def tokenizer(*, begins: bool = False, **special: str) -> PreTrainedTokenizerFast:
    """Every letter and space is a token, but " a", " b" and "ab" are one."""
    made = Tokenizer(models.BPE(WORDS, [(" ", "a"), (" ", "b"), ("a", "b")], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    if begins:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def encoder(most: int = 9, **options: Any) -> PairEncoder:
    return PairEncoder(tokenizer(**{"bos_token": "<s>", "eos_token": "</s>", **options}), most)


def test_both_are_one_text_split_after_the_context() -> None:
    assert encoder().encode(Request("a", " b")) == TokenPair((3,), (7,))
    assert encoder().encode(Request("a b", " ab")) == TokenPair((3, 7), (6, 4))


def test_a_token_over_the_border_is_cut_as_the_harness_cuts_it() -> None:
    # "a" + "bb" is "ab", "b": after the one token of "a" alone, "b" is left.
    assert encoder().encode(Request("a", "bb")) == TokenPair((3,), (4,))


def test_white_space_that_ends_the_context_begins_the_continuation() -> None:
    assert encoder().encode(Request("a ", "b")) == TokenPair((3,), (7,))
    assert encoder().encode(Request("a  ", "b")) == TokenPair((3,), (5, 7))


def test_a_tokenizer_that_begins_texts_does_so_once() -> None:
    assert encoder(begins=True).encode(Request("a", " b")) == TokenPair((1, 3), (7,))
    assert encoder(begins=True).encode(Request("<s>a", " b")) == TokenPair((1, 3), (7,))


def test_an_empty_context_is_the_token_that_begins_or_ends_texts() -> None:
    assert encoder().encode(Request("", " a")) == TokenPair((1,), (6,))
    assert encoder(bos_token=None).encode(Request("", " a")) == TokenPair((2,), (6,))
    assert encoder(begins=True).encode(Request("", "<s> a")) == TokenPair((1,), (6,))
    with pytest.raises(CheckpointError, match="no token that begins or ends texts"):
        encoder(bos_token=None, eos_token=None).encode(Request("", " a"))


def test_a_long_context_loses_its_beginning() -> None:
    # Four tokens are read at most, and of the continuation's two only the first is read.
    assert encoder(4).encode(Request("a b a b", " a b")) == TokenPair((7, 6, 7), (6, 7))


def test_a_continuation_that_cannot_be_read_whole_is_refused() -> None:
    with pytest.raises(OutputError, match="3 tokens after its context, and the model reads 2"):
        encoder(2).encode(Request("a", " a b a"))
    with pytest.raises(OutputError, match="0 tokens after its context"):
        encoder().encode(Request("a", "b"))  # "ab" is one token
