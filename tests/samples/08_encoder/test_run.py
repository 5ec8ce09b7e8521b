"""The sample runs as its README says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

SAMPLE = "08_encoder"


@pytest.fixture
def tiny_encoder(tmp_path: Path) -> Path:
    """Return the folder of a random BERT with a token for every letter."""
    folder = tmp_path / "model"
    letters = [chr(code) for code in range(32, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)
    return folder


def test_compiles_and_compares_texts(tiny_encoder: Path, run_sample: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the sample compiles for ONNX Runtime")
    done = run_sample(SAMPLE, tiny_encoder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "cosine with the original: tokens 1.0000, texts 1.0000" in done.stdout
    rows = [line for line in done.stdout.splitlines() if " | " in line]
    assert [line.partition(" | ")[2] for line in rows] == [
        "There is a kitten on the rug.", "Stocks fell sharply.",
    ]  # fmt: skip
    assert all(-1 <= float(line.split()[0]) <= 1 for line in rows)


@pytest.mark.tensorrt
def test_builds_an_engine_of_many_texts(
    tiny_encoder: Path, run_sample: Any, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    done = run_sample(SAMPLE, tiny_encoder, tmp_path / "out", "tensorrt-rtx")
    assert done.returncode == 0, done.stderr
    assert "engine: takes batch 1 to 32, sequence 1 to 64" in done.stdout
    built = json.loads((tmp_path / "out" / "manifest.json").read_text())["build"]
    assert (tmp_path / "out" / built["engine"]).is_file()


def test_says_what_is_wrong_in_a_sentence(run_sample: Any, tmp_path: Path) -> None:
    done = run_sample(SAMPLE, tmp_path / "absent", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
