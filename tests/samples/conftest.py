"""A tiny model on disk for the samples, and a way to run one as its README says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
VOCABULARY = 96


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """Return the folder of a random Llama with a token for every letter."""
    folder = tmp_path / "model"
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    letters = [chr(code) for code in range(32, 32 + VOCABULARY - 1)]
    vocabulary = {token: i for i, token in enumerate(["<unk>", *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture
def run_sample() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the script of a sample by its folder's name."""

    def run(sample: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SAMPLES / sample / "run.py"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    return run
