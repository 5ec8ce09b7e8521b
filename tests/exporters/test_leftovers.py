"""What a model has no place for is told apart, and what should not be there is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, GPT2Config, PreTrainedModel

from castline.exporters.leftovers import not_derived, of_heads, zero_biases
from castline.exporters.readers.tensors import TensorSpec


@pytest.fixture(scope="module")
def gpt2() -> PreTrainedModel:
    config = GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=9, n_positions=8)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="module")
def bert() -> PreTrainedModel:
    config = BertConfig(
        hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8, vocab_size=9
    )
    with torch.device("meta"):
        return AutoModel.from_config(config)


@pytest.mark.parametrize(
    ("stored", "shape", "derived"),
    [
        ("h.0.attn.masked_bias", (), True),
        ("h.0.attn.masked_bias", (1,), True),
        ("h.0.attn.masked_bias", (8,), False),
        ("h.0.attention.bias", (1, 1, 8, 8), True),
        ("h.0.attention.bias", (1, 1, 8, 4), False),
        ("h.0.attention.bias", (1, 2, 8, 8), False),
        ("h.0.attention.bias", (8,), False),
        ("h.0.attention.weight", (1, 1, 8, 8), False),
        ("h.0.attn.bias", (8,), True),  # by the class of GPT-2
    ],
)
def test_a_causal_mask_is_told_by_name_and_shape(
    stored: str, shape: tuple[int, ...], derived: bool, gpt2: PreTrainedModel
) -> None:
    specs = {stored: TensorSpec(shape, np.dtype(np.float32))}
    left = not_derived(gpt2, {stored: f"transformer.{stored}"}, specs)
    assert left == ({} if derived else {stored: f"transformer.{stored}"})


@pytest.mark.parametrize(
    ("name", "is_head"),
    [
        ("cls.predictions.bias", True),
        ("qa_outputs.weight", True),
        ("bert.qa_outputs.weight", True),
        ("bert.encoder.layer.1.output.dense.bias", False),
        ("encoder.norm.weight", False),
        ("embeddings.extra.weight", False),
    ],
)
def test_a_head_lies_beside_the_parts_of_a_base_model(
    name: str, is_head: bool, bert: PreTrainedModel
) -> None:
    assert of_heads(bert, {"stored": name}) == (("stored",) if is_head else ())


def test_a_model_with_a_head_takes_nothing_for_another(gpt2: PreTrainedModel) -> None:
    assert of_heads(gpt2, {"score.weight": "score.weight"}) == ()


def test_biases_of_zeros_are_told_where_their_weight_is_quantized() -> None:
    arrays = {
        "a.bias": np.zeros(4, np.float16),
        "b.bias": np.array([0, 1], np.float16),
        "c.bias": np.zeros(4, np.float16),
        "a.other": np.zeros(4, np.float16),
    }
    checkpoint = SimpleNamespace(
        quantized={"a.weight": None, "b.weight": None}, read=arrays.__getitem__
    )
    assert zero_biases(cast(Any, checkpoint), arrays) == {"a.bias"}
