"""Windows of tokens come from where they should, whole, and without overlap."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from castline.compiler.calibration.windows import random_windows, token_windows
from castline.errors import RecipeError

WORDS = ["<unk>", "<s>", *(f"w{number}" for number in range(2, 40))]


def word_tokenizer(*, begins: bool = False, ends: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer for which the word `w7` is token 7.

    With `begins`, every text begins with 1; with `ends`, it ends with 0, as an encoder's does.
    """
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if begins or ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(["<s>"] * begins + ["$A"] + ["<unk>"] * ends),
            special_tokens=[("<s>", 1), ("<unk>", 0)],
        )
    first = "cls_token" if ends else "bos_token"
    last = {"sep_token": "<unk>"} if ends else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", model_max_length=8, **{first: "<s>"}, **last
    )


def numbered_text(first: int, last: int) -> str:
    return " ".join(f"w{number}" for number in range(first, last + 1))


def test_windows_follow_each_other_without_overlap() -> None:
    windows = token_windows(word_tokenizer(), numbered_text(2, 20), length=4, count=3)
    assert windows.dtype == np.int64
    assert windows.tolist() == [[2, 3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 13]]


def test_each_window_begins_as_the_tokenizer_begins_a_text() -> None:
    windows = token_windows(word_tokenizer(begins=True), numbered_text(2, 20), length=4, count=2)
    assert windows.tolist() == [[1, 2, 3, 4], [1, 5, 6, 7]]


def test_a_text_of_just_the_needed_length_is_enough() -> None:
    assert token_windows(word_tokenizer(), numbered_text(2, 9), length=4, count=2).shape == (2, 4)


def test_a_short_text_is_refused_with_both_numbers() -> None:
    with pytest.raises(RecipeError, match=r"2 windows of 4 tokens need 8 tokens.* it has 7"):
        token_windows(word_tokenizer(), numbered_text(2, 8), length=4, count=2)


@pytest.mark.parametrize(("length", "count"), [(1, 1), (4, 0)])
def test_windows_that_would_hold_no_text_are_refused(length: int, count: int) -> None:
    with pytest.raises(RecipeError, match="at least 1 window of at least 2 tokens"):
        token_windows(word_tokenizer(begins=True), "w2 w3", length=length, count=count)


def test_a_long_text_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        token_windows(word_tokenizer(), numbered_text(2, 30), length=12, count=2)
    assert caplog.text == ""


@pytest.mark.parametrize("seed", range(20))
def test_random_windows_are_parts_of_the_text_without_overlap(seed: int) -> None:
    windows = random_windows(word_tokenizer(), numbered_text(2, 20), length=4, count=4, seed=seed)
    assert windows.dtype == np.int64
    starts = windows[:, 0]
    np.testing.assert_array_equal(windows, starts[:, None] + np.arange(4))
    assert starts.min() >= 2
    assert starts.max() <= 17
    assert (np.diff(starts) >= 4).all()


def test_random_windows_reach_every_place_of_the_text() -> None:
    starts = {
        random_windows(word_tokenizer(), numbered_text(2, 9), length=4, count=1, seed=seed)[0, 0]
        for seed in range(60)
    }
    assert starts == {2, 3, 4, 5, 6}


def test_random_windows_depend_on_the_seed_alone() -> None:
    def windows(seed: int) -> list[list[int]]:
        chosen = random_windows(
            word_tokenizer(), numbered_text(2, 39), length=4, count=3, seed=seed
        )
        return chosen.tolist()

    assert windows(7) == windows(7)
    assert windows(7) != windows(8)


def test_a_text_of_just_the_needed_length_gives_the_whole_of_it() -> None:
    windows = random_windows(word_tokenizer(), numbered_text(2, 9), length=4, count=2, seed=0)
    assert windows.tolist() == [[2, 3, 4, 5], [6, 7, 8, 9]]


def test_random_windows_of_an_encoder_begin_and_end_as_its_texts_do() -> None:
    tokenizer = word_tokenizer(begins=True, ends=True)
    windows = random_windows(tokenizer, numbered_text(2, 5), length=4, count=2, seed=0)
    assert windows.tolist() == [[1, 2, 3, 0], [1, 4, 5, 0]]


def test_a_text_too_short_for_random_windows_says_how_many_it_is_enough_for() -> None:
    message = r"5 samples of 4 tokens need 15 tokens of text, and it has 14, enough for 4"
    with pytest.raises(RecipeError, match=message):
        random_windows(word_tokenizer(begins=True), numbered_text(2, 15), length=4, count=5, seed=0)


def test_a_window_needs_a_place_for_text_between_its_special_tokens() -> None:
    with pytest.raises(RecipeError, match="at least 1 window of at least 3 tokens"):
        random_windows(word_tokenizer(begins=True, ends=True), "w2 w3", length=2, count=1, seed=0)


def test_of_a_long_text_only_parts_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    tokenizer = word_tokenizer()
    encode = type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer),
        "__call__",
        lambda self, text, **options: read.append(len(text)) or encode(self, text, **options),
    )
    text = numbered_text(2, 39) * 1000
    windows = random_windows(tokenizer, text, length=4, count=3, seed=0)
    assert windows.shape == (3, 4)
    assert max(read) == 3 * 64 + 2 * 2 < len(text)


def test_a_long_text_of_few_tokens_is_read_whole() -> None:
    text = (" " * 500).join(f"w{number}" for number in range(2, 40))
    windows = random_windows(word_tokenizer(), text, length=4, count=9, seed=3)
    np.testing.assert_array_equal(windows, windows[:, :1] + np.arange(4))
