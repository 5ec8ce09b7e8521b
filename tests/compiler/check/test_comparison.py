"""A result is loaded beside its original, by its kind, with the same threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from castline.compiler.check.comparison import opened_pair
from castline.compiler.check.decoder_pair import DecoderPair
from castline.compiler.check.encoder_pair import EncoderPair
from castline.compiler.check.evaluation_text import held_out_passages, held_out_windows
from castline.errors import TargetError


def test_torch_gets_its_threads_back_even_after_a_failure(
    tiny: Callable[[str], Any], evaluation_text: str, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    tested = tiny("llama")
    text = held_out_windows(tested.checkpoint, evaluation_text)
    with opened_pair(tested.checkpoint, tested.graph, text, threads=before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    missing = opened_pair(tested.checkpoint, tmp_path, text, threads=before + 1)
    with pytest.raises(TargetError), missing:
        pytest.fail("there is no model in that folder")
    assert torch.get_num_threads() == before


def test_the_text_says_which_kind_of_model_is_loaded(
    tiny: Callable[[str], Any], encoder: Any, evaluation_text: str, sentences: str
) -> None:
    llama = tiny("llama")
    windows = held_out_windows(llama.checkpoint, evaluation_text)
    with opened_pair(llama.checkpoint, llama.graph, windows, threads=1) as pair:
        assert isinstance(pair, DecoderPair)
    passages = held_out_passages(encoder.checkpoint, sentences)
    with opened_pair(encoder.checkpoint, encoder.graph, passages, threads=1) as pair:
        assert isinstance(pair, EncoderPair)
