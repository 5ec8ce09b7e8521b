"""The length of what a model reads is found whatever its configuration calls it."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BertConfig,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    MptConfig,
    PretrainedConfig,
    RobertaConfig,
    RobertaModel,
)

from castline.exporters.context import context_length


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(max_position_embeddings=4096), 4096),
        (GPT2Config(n_positions=300), 300),
        (BertConfig(), 512),
        (FalconConfig(alibi=True, max_position_embeddings=1024), 1024),
        (BloomConfig(seq_length=4096), 4096),
        (BloomConfig(), 2048),
        (MptConfig(max_seq_len=777), 777),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
    ],
)
def test_the_length_is_found(config: PretrainedConfig, expected: int) -> None:
    assert context_length(config) == expected


def test_positions_that_begin_after_the_padding_token_are_not_counted() -> None:
    config = RobertaConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=12, pad_token_id=1,
    )  # fmt: skip
    model = RobertaModel(config, add_pooling_layer=False)
    length = context_length(config)
    model(input_ids=torch.full((1, length), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, length + 1), 5))
