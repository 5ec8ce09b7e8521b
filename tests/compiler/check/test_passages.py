"""Text becomes passages with special tokens, none longer than the model takes."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from castline.compiler.check.passages import sentences_of, token_passages
from castline.errors import RecipeError


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Words a, b, c, ... are the tokens 10, 11, 12, ...; 1 and 2 stand around every text."""
    words = {"?": 0, "<": 1, ">": 2} | {chr(97 + i): 10 + i for i in range(26)}
    made = Tokenizer(models.WordLevel(words, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="< $A >", special_tokens=[("<", 1), (">", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One is here. Two is\nthere! Three?", ["One is here.", "Two is there!", "Three?"]),
        ('"So it is." He went.', ['"So it is."', "He went."]),
        ("A heading\n\nAnd a text", ["A heading", "And a text"]),
        ("一句。又一句。", ["一句。", "又一句。"]),
        ("E V Q L\nQ V Q L\n", ["E V Q L", "Q V Q L"]),
        ("version 2.5 is out. It is.", ["version 2.5 is out.", "It is."]),
        ("", []),
    ],
)
def test_sentences_are_found(text: str, expected: list[str]) -> None:
    assert sentences_of(text) == expected


def test_passages_have_special_tokens_and_end_where_the_model_does(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    text = "a b c d\ne f g h i j k\nl m n o"
    found = token_passages(tokenizer, text, length=8, sentences=9, windows=0)
    assert [passage.tolist() for passage in found] == [
        [1, 10, 11, 12, 13, 2],
        [1, 14, 15, 16, 17, 18, 19, 2],
        [1, 21, 22, 23, 24, 2],
    ]


def test_very_short_sentences_say_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "a b c d\na b c\n" * 3
    found = token_passages(tokenizer, text, length=8, sentences=9, windows=0)
    assert [passage.size for passage in found] == [6, 6, 6]


def test_windows_are_whole_and_evenly_apart(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "a b c d\n" + " ".join("efghijklmnopqrstuvwxyz" * 4)
    found = token_passages(tokenizer, text, length=8, sentences=1, windows=4)
    assert [passage.size for passage in found] == [6, 8, 8, 8, 8]
    assert len({passage[1] for passage in found[1:]}) > 1


def test_a_text_too_short_to_compare_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(RecipeError, match=r"too short: .*windows of 8 tokens in it are 1 together"):
        token_passages(tokenizer, "a b c d", length=8, sentences=9, windows=4)
