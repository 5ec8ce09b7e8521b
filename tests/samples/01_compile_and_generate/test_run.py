"""The sample runs as its README says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SCRIPT = Path(__file__).resolve().parents[3] / "samples" / "01_compile_and_generate" / "run.py"
VOCABULARY = 96


def save_tiny_model(folder: Path) -> None:
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


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_compiles_and_continues_a_text(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the sample compiles for ONNX Runtime")
    save_tiny_model(tmp_path / "model")
    done = run(tmp_path / "model", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout
    assert "It is a truth universally acknowledged, that" in done.stdout
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_says_what_is_wrong_in_a_sentence(tmp_path: Path) -> None:
    done = run(tmp_path / "absent", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
