"""Calibration samples are text, chosen by the seed, and say where they are from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from castline.compiler.calibration.samples import calibration_samples
from castline.compiler.calibration.text import shipped_text, text_sha256
from castline.errors import RecipeError


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of letters, for which `b` is 98, with a chat template."""
    letters = Tokenizer(models.WordLevel({chr(code): code for code in range(128)}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=letters,
        unk_token="?",
        chat_template="{% for one in messages %}<{{ one.content }}>{% endfor %}",
    )


def options(**changed: Any) -> dict[str, Any]:
    given = {"samples": 2, "length": 8, "seed": 42, "chat_template": False, "longest": 64}
    return given | changed


def test_without_a_source_the_shipped_text_is_read(tokenizer: PreTrainedTokenizerFast) -> None:
    found = calibration_samples(tokenizer, None, **options(samples=4))
    text = shipped_text("calibration")
    assert (found.source, found.sha256) == ("shipped", text_sha256(text))
    assert found.tokens.shape == (4, 8)
    assert found.tokens.dtype == np.int64
    for sample in found.tokens:
        assert "".join(map(chr, sample)) in text


def test_the_seed_alone_chooses(tokenizer: PreTrainedTokenizerFast) -> None:
    first, again, other = (
        calibration_samples(tokenizer, None, **options(seed=seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert (first.tokens != other.tokens).any()


def test_with_a_chat_template_paragraphs_are_messages(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("abcdefgh\n\nijklmnop\n")
    found = calibration_samples(tokenizer, str(file), **options(chat_template=True))
    assert sorted("".join(map(chr, one)) for one in found.tokens) == ["<abcdefg", "<ijklmno"]
    assert found.chat_template
    assert found.source == str(file)
    assert found.sha256 == text_sha256(file.read_text())


@pytest.mark.parametrize("changed", [{"samples": 0}, {"length": 0}])
def test_no_samples_are_refused(tokenizer: PreTrainedTokenizerFast, changed: Any) -> None:
    with pytest.raises(RecipeError, match="expected at least 1 of at least 1"):
        calibration_samples(tokenizer, None, **options(**changed))


def test_samples_beyond_the_positions_of_the_model_are_refused(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    message = r"calibration\.length: samples of 65 tokens are longer than the 64 positions"
    with pytest.raises(RecipeError, match=message):
        calibration_samples(tokenizer, None, **options(length=65))
    assert calibration_samples(tokenizer, None, **options(length=64)).tokens.shape == (2, 64)


def test_an_empty_text_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(RecipeError, match=r"a\.txt: the calibration text is empty"):
        calibration_samples(tokenizer, str(tmp_path / "a.txt"), **options())


@pytest.mark.parametrize(
    ("chat_template", "enough"), [(False, "enough for 1"), (True, "documents fill 1")]
)
def test_a_text_that_is_too_short_says_what_it_is_enough_for(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, chat_template: bool, enough: str
) -> None:
    (tmp_path / "a.txt").write_text("abcdefghijkl")
    with pytest.raises(RecipeError, match=enough):
        calibration_samples(
            tokenizer, str(tmp_path / "a.txt"), **options(chat_template=chat_template)
        )
