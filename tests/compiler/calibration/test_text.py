"""Token windows come from the text in order, and every source that is wrong is named."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from castline.compiler.calibration.text import (
    load_text,
    require_apart,
    shipped_text,
    text_sha256,
    token_windows,
)
from castline.errors import RecipeError

WORDS = ["<unk>", "<s>", *(f"w{number}" for number in range(2, 40))]


def word_tokenizer(*, begins: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer for which the word `w7` is token 7; with `begins`, every text begins with 1."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", model_max_length=8
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


@pytest.mark.parametrize(("purpose", "size"), [("calibration", 195_017), ("evaluation", 79_110)])
def test_each_purpose_has_its_shipped_text(purpose, size: int) -> None:
    text = load_text(None, purpose)
    assert len(text.encode()) == size
    assert text.lower().startswith("chapter ")


def test_the_shipped_texts_are_apart() -> None:
    require_apart(shipped_text("calibration"), shipped_text("evaluation"))


@pytest.mark.parametrize("evaluation", ["one two three", "two", "one two three four\n"])
def test_a_text_that_holds_the_other_is_refused(evaluation: str) -> None:
    with pytest.raises(RecipeError, match="one holds the other"):
        require_apart("one two three\n", evaluation)


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc", encoding="utf-8")
    # FIPS 180-2, appendix B.1: SHA-256 of "abc".
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert text_sha256(load_text(tmp_path / "a.txt")) == known


def test_a_folder_is_its_text_files_by_name(tmp_path: Path) -> None:
    for name, content in (("b.txt", "second"), ("a.txt", "first"), ("c.md", "other")):
        (tmp_path / name).write_text(content)
    assert load_text(tmp_path) == "first\n\nsecond"


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has no \.txt file"):
        load_text(tmp_path)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"a\.txt: not text in UTF-8"):
        load_text(tmp_path / "a.txt")


def test_what_is_not_there_is_refused_with_the_syntax() -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.txt: no such file.*NAME:SPLIT:COLUMN"):
        load_text("nowhere.txt")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "rows"
    folder.mkdir()
    rows = [{"text": "first", "number": 1}, {"text": "second", "number": 2}]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def test_a_dataset_is_one_column_of_one_split(dataset: Path) -> None:
    assert load_text(f"{dataset}:train:text") == "first\n\nsecond"


@pytest.mark.parametrize("column", ["number", "body"])
def test_a_column_without_text_is_refused_with_those_there_are(dataset: Path, column: str) -> None:
    with pytest.raises(RecipeError, match=rf"no column '{column}' of text; it has text \(string\)"):
        load_text(f"{dataset}:train:{column}")


def test_an_unknown_split_is_refused(dataset: Path) -> None:
    with pytest.raises(RecipeError, match=r"split 'test' cannot be loaded.*train"):
        load_text(f"{dataset}:test:text")


def test_a_dataset_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be loaded"):
        load_text(f"{tmp_path}/nowhere:train:text")
