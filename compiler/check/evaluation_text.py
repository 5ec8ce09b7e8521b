"""Prepare the text to judge a model by: held-out text that no search has seen, as tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.calibration.text import load_text, text_sha256
from castline.compiler.calibration.windows import token_windows
from castline.compiler.check.passages import token_passages
from castline.exporters.context import context_length
from castline.exporters.interface import interface_of
from castline.exporters.names import ATTENTION_MASK, INPUT_IDS

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

Tokens: TypeAlias = NDArray[np.int64]

_WINDOWS, _WINDOW_LENGTH = 8, 512  # tokens of held-out text; a few seconds for a small model
_SENTENCES, _LONG_PASSAGES = 64, 4  # as encoders read them: mostly short, some as long as they take
_SHIPPED = "shipped"
_ROWS, _TOKENS = 2, 16


class Described(Protocol):
    """What says how a model reads text: a checkpoint, or the folder of a graph."""

    @property
    def config(self) -> PretrainedConfig: ...
    def tokenizer(self) -> PreTrainedTokenizerBase: ...


@dataclass(frozen=True)
class HeldOutText:
    """What a decoder is judged by."""

    windows: Tokens
    """[count, length]."""
    sha256: str
    source: str


@dataclass(frozen=True)
class HeldOutPassages:
    """What an encoder is judged by."""

    passages: tuple[Tokens, ...]
    """[length] each, special tokens included."""
    padding: int
    """The token that fills up what is shorter than others beside it."""
    sha256: str
    source: str


def held_out_text(checkpoint: Described, source: str | None) -> HeldOutText | HeldOutPassages:
    """Return what the checkpoint's kind of model is judged by, of `source` or the shipped text.

    Raises CheckpointError without a tokenizer, RecipeError for a text that is missing or too short,
    UnsupportedArchitectureError for what is neither a decoder nor an encoder.
    """
    if interface_of(checkpoint.config).cached:
        return held_out_windows(checkpoint, source)
    return held_out_passages(checkpoint, source)


def held_out_windows(checkpoint: Described, source: str | None) -> HeldOutText:
    """Return as many windows as there are, up to eight of 512 tokens. Raises as held_out_text."""
    text = load_text(source, "evaluation")
    length = min(_WINDOW_LENGTH, context_length(checkpoint.config))
    tokenizer = checkpoint.tokenizer()
    fitting = len(tokenizer(text, verbose=False)["input_ids"]) // length
    count = max(1, min(_WINDOWS, fitting))
    windows = token_windows(tokenizer, text, length=length, count=count)
    return HeldOutText(windows, text_sha256(text), source or _SHIPPED)


def held_out_passages(checkpoint: Described, source: str | None) -> HeldOutPassages:
    """Return sentences, and passages of up to 512 tokens. Raises as held_out_text."""
    text = load_text(source, "evaluation")
    tokenizer = checkpoint.tokenizer()
    passages = token_passages(
        tokenizer,
        text,
        length=min(_WINDOW_LENGTH, context_length(checkpoint.config)),
        sentences=_SENTENCES,
        windows=_LONG_PASSAGES,
    )
    known = (tokenizer.pad_token_id, checkpoint.config.pad_token_id)
    padding = next((token for token in known if token is not None), 0)
    return HeldOutPassages(passages, padding, text_sha256(text), source or _SHIPPED)


def first_tokens(text: HeldOutText | HeldOutPassages) -> dict[str, Tokens]:
    """Return the beginning of a text as a feed: two rows of 16 tokens, or one row of passages."""
    if isinstance(text, HeldOutText):
        ids = text.windows[:_ROWS, :_TOKENS]
    else:
        most = max(passage.size for passage in text.passages)
        ids = np.concatenate(text.passages)[None, : min(_TOKENS, most)]
    return {INPUT_IDS: np.ascontiguousarray(ids), ATTENTION_MASK: np.ones_like(ids)}
