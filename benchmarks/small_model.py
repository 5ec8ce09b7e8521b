"""Train a small decoder on the shipped text, byte by byte, and store it with planted outliers.

Large models have outliers in few channels, which SmoothQuant is about. The sample model has a few
tokens of huge activations instead, which no scale for a channel takes away.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from outliers import plant_outliers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from castline.compiler.calibration.text import load_text

STEPS, BATCH, LENGTH = 500, 8, 128
PEAK_RATE = 8e-3
LAYERS, WIDTH, HEADS = 3, 128, 4


def store(folder: Path, steps: int = STEPS) -> None:
    """Train for `steps` and write the model in float32, with its tokenizer, to `folder`."""
    tokenizer = byte_tokenizer()
    tokens = torch.tensor(tokenizer(load_text(None, "calibration"), verbose=False)["input_ids"])
    model = trained(tokens, len(tokenizer), steps)
    plant_outliers(model)
    partial = folder.with_name(folder.name + ".partial")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)


def trained(tokens: torch.Tensor, vocabulary: int, steps: int) -> LlamaForCausalLM:
    """Return a decoder trained to predict `tokens` [length], the same for the same machine."""
    torch.set_num_threads(1)  # its matrices are small, and threads would wait for each other
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for _ in range(steps):
        starts = torch.randint(len(tokens) - LENGTH, (BATCH, 1))
        batch = tokens[starts + torch.arange(LENGTH)]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are the 256 bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


if __name__ == "__main__":
    store(Path(sys.argv[1]))
