"""A decoder is judged by windows of text, an encoder by sentences and a few long passages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.check.evaluation_text import (
    HeldOutPassages,
    HeldOutText,
    held_out_passages,
    held_out_text,
    held_out_windows,
)
from castline.errors import CheckpointError, RecipeError
from castline.exporters.readers.tokenizer import FolderTokenizer


def test_text_is_cut_into_windows_of_the_context(
    tiny: Callable[[str], Any], evaluation_text: str
) -> None:
    found = held_out_text(tiny("llama").checkpoint, evaluation_text)
    assert isinstance(found, HeldOutText)
    assert found.windows.shape == (8, 512)
    assert found.source == evaluation_text
    assert found.sha256 == hashlib.sha256(Path(evaluation_text).read_bytes()).hexdigest()


def test_a_short_text_is_refused(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("w1 " * 100)
    with pytest.raises(RecipeError, match="too short: 1 windows of 512 tokens"):
        held_out_windows(tiny("llama").checkpoint, str(file))


def test_a_text_of_a_few_windows_is_used_whole(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("w1 " * 1200)
    assert held_out_windows(tiny("llama").checkpoint, str(file)).windows.shape == (2, 512)


def test_a_checkpoint_without_a_tokenizer_cannot_be_compared(
    tiny: Callable[[str], Any], encoder: Any, tmp_path: Path
) -> None:
    without = FolderTokenizer(tmp_path, trust_remote_code=False)
    for checkpoint in (tiny("llama").checkpoint, encoder.checkpoint):
        with pytest.raises(CheckpointError, match="holds no tokenizer"):
            held_out_text(replace(checkpoint, tokenizer_source=without), None)


def test_an_encoder_reads_sentences_and_passages_as_long_as_it_takes(
    encoder: Any, sentences: str
) -> None:
    found = held_out_text(encoder.checkpoint, sentences)
    assert isinstance(found, HeldOutPassages)
    lengths = [passage.size for passage in found.passages]
    assert lengths == [12] * 64 + [64] * 4, "nine words, the stop and [CLS], [SEP]; the context"
    assert all(passage[0] == 2 and passage[-1] == 3 for passage in found.passages)
    assert (found.padding, found.source) == (0, sentences)
    assert found.sha256 == hashlib.sha256(Path(sentences).read_bytes()).hexdigest()


def test_the_shipped_text_suits_an_encoder_too(encoder: Any) -> None:
    found = held_out_passages(encoder.checkpoint, None)
    assert (len(found.passages), found.source) == (68, "shipped")
