from __future__ import annotations

from typing import Any

import pytest
from transformers import (
    BartConfig,
    BertConfig,
    DistilBertConfig,
    LlamaConfig,
    PretrainedConfig,
    RobertaConfig,
    T5Config,
    ViTConfig,
    WhisperConfig,
)

from castline.errors import UnsupportedArchitectureError
from castline.exporters.interface import DECODER, Interface, interface_of, runs_remote_code


class Own(PretrainedConfig):  # type: ignore[misc]
    """A configuration as transformers makes it of code that came with a checkpoint."""

    __module__ = "transformers_modules.own.configuration_own"
    model_type = "own"


class Unknown(PretrainedConfig):  # type: ignore[misc]
    model_type = "unknown"


def test_a_decoder_takes_and_gives_a_cache_for_every_layer() -> None:
    assert interface_of(LlamaConfig()) is DECODER
    assert DECODER.input_names(2) == (
        "input_ids",
        "attention_mask",
        "position_ids",
        "past_key_values.0.key",
        "past_key_values.0.value",
        "past_key_values.1.key",
        "past_key_values.1.value",
    )
    assert DECODER.output_names(1) == ("logits", "present.0.key", "present.0.value")


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (BertConfig(), ("input_ids", "attention_mask", "token_type_ids")),
        (DistilBertConfig(), ("input_ids", "attention_mask")),
        (RobertaConfig(type_vocab_size=1), ("input_ids", "attention_mask")),
    ],
)
def test_an_encoder_takes_segments_where_it_has_several(
    config: PretrainedConfig, tokens: tuple[str, ...]
) -> None:
    interface = interface_of(config)
    assert interface == Interface(tokens, "last_hidden_state", cached=False)
    assert interface.input_names(12) == tokens
    assert interface.output_names(12) == ("last_hidden_state",)


def test_a_bert_that_says_so_is_a_decoder() -> None:
    assert interface_of(BertConfig(is_decoder=True)) is DECODER


def test_code_that_comes_with_a_checkpoint_may_be_a_decoder() -> None:
    assert runs_remote_code(Own())
    assert interface_of(Own()) is DECODER
    assert not runs_remote_code(LlamaConfig())


@pytest.mark.parametrize("config", [T5Config(), BartConfig(), WhisperConfig()])
def test_refuses_an_encoder_with_a_decoder(config: Any) -> None:
    said = rf"model_type '{config.model_type}' is an encoder with a decoder"
    with pytest.raises(UnsupportedArchitectureError, match=said):
        interface_of(config)


@pytest.mark.parametrize("config", [ViTConfig(), Unknown()])
def test_refuses_what_is_neither(config: Any) -> None:
    said = rf"config\.json: model_type '{config.model_type}' is neither"
    with pytest.raises(UnsupportedArchitectureError, match=said):
        interface_of(config)
