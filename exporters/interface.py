"""Say what a graph takes and gives: a decoder with its cache, or an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from castline.errors import UnsupportedArchitectureError
from castline.exporters import names

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_REMOTE_CODE = "transformers_modules."  # where transformers keeps the modules that it was let load


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a model's graph, whatever its depth."""

    tokens: tuple[str, ...]
    """The inputs that every layer shares, in order, int64; the caches follow them."""

    output: str
    """Either "logits" [batch, sequence, vocabulary] or "last_hidden_state" [.., .., hidden]."""

    cached: bool
    """Whether each layer has a key and a value cache as inputs and outputs."""

    def input_names(self, layers: int) -> tuple[str, ...]:
        """Return the inputs of a model of so many layers, in order."""
        return (*self.tokens, *self._of_caches(names.past_name, layers))

    def output_names(self, layers: int) -> tuple[str, ...]:
        """Return the outputs of a model of so many layers, in order."""
        return (self.output, *self._of_caches(names.present_name, layers))

    def _of_caches(self, name: Callable[[int, str], str], layers: int) -> Iterator[str]:
        if self.cached:
            yield from (name(i, slot) for i in range(layers) for slot in names.SLOTS)


DECODER = Interface(
    (names.INPUT_IDS, names.ATTENTION_MASK, names.POSITION_IDS), names.LOGITS, cached=True
)


def interface_of(config: PretrainedConfig) -> Interface:
    """Return the interface of a configuration's model.

    A model type that transformers knows for masked language modelling is an encoder unless its
    configuration says is_decoder; any other that it knows for causal language modelling is a
    decoder. Raises UnsupportedArchitectureError for all else.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    if config.is_encoder_decoder:
        raise UnsupportedArchitectureError(
            f"config.json: model_type {config.model_type!r} is an encoder with a decoder. Only "
            "decoders (causal language models) and encoders can be exported."
        )
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    if masked and not getattr(config, "is_decoder", False):
        return _encoder(config)
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or runs_remote_code(config):
        return DECODER
    raise UnsupportedArchitectureError(
        f"config.json: model_type {config.model_type!r} is neither a causal language model nor an "
        "encoder that transformers knows by its masked language model."
    )


def _encoder(config: PretrainedConfig) -> Interface:
    segments = (names.TOKEN_TYPE_IDS,) if getattr(config, "type_vocab_size", 0) > 1 else ()
    return Interface(
        (names.INPUT_IDS, names.ATTENTION_MASK, *segments), names.LAST_HIDDEN_STATE, cached=False
    )


def runs_remote_code(config: PretrainedConfig) -> bool:
    """Return whether the configuration's class came with the checkpoint, by the user's consent."""
    return type(config).__module__.startswith(_REMOTE_CODE)
