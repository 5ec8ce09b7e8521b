"""Beside a model stand its configuration, its tokenizer and the settings to run it by."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.package.companions import (
    model_bytes,
    save_companions,
    save_config_and_tokenizer,
)
from castline.exporters.interface import DECODER, interface_of
from castline.exporters.readers.tokenizer import FolderTokenizer


def test_writes_all_that_runtimes_look_for(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    assert save_companions(tiny("llama").checkpoint, tmp_path, DECODER, shares_cache=True) == ()
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {
        "config.json",
        "genai_config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    genai = json.loads((tmp_path / "genai_config.json").read_text())
    assert genai["model"]["eos_token_id"] == 2
    assert genai["search"]["past_present_share_buffer"] is True


def test_a_checkpoint_without_a_tokenizer_is_noted(
    tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    without = FolderTokenizer(bare, trust_remote_code=False)
    checkpoint = replace(tiny("llama").checkpoint, tokenizer_source=without)
    (note,) = save_config_and_tokenizer(checkpoint, tmp_path)
    assert note.startswith("no tokenizer was written: ")
    assert (tmp_path / "config.json").is_file()
    (note,) = save_companions(checkpoint, tmp_path, DECODER, shares_cache=False)
    genai = json.loads((tmp_path / "genai_config.json").read_text())
    assert genai["model"]["eos_token_id"] == 2, "the configuration says it where nothing else does"


def test_an_encoder_keeps_how_it_is_pooled_and_has_no_settings_to_generate(
    encoder: Any, tmp_path: Path
) -> None:
    interface = interface_of(encoder.checkpoint.config)
    assert save_companions(encoder.checkpoint, tmp_path, interface, shares_cache=False) == ()
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert names == {
        "config.json", "tokenizer.json", "tokenizer_config.json",
        "modules.json", "sentence_bert_config.json", "1_Pooling", "1_Pooling/config.json",
    }  # fmt: skip


def test_the_size_is_that_of_the_model_and_its_weights(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x" * 10)
    (tmp_path / "model.onnx.data").write_bytes(b"x" * 200)
    (tmp_path / "tokenizer.json").write_bytes(b"x" * 3000)
    assert model_bytes(tmp_path) == 210


def test_a_model_without_its_weights_is_our_mistake(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(FileNotFoundError):
        model_bytes(tmp_path)
