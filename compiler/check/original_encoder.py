"""Run the original of an encoder as Hugging Face runs it."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from castline.compiler.check.original import load_encoder
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.names import ATTENTION_MASK, INPUT_IDS, LAST_HIDDEN_STATE, TOKEN_TYPE_IDS

Tokens: TypeAlias = NDArray[np.int64]
Hidden: TypeAlias = NDArray[np.float32]


class OriginalEncoder:
    """The encoder in torch, in evaluation mode, without gradients, pooler and heads."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.takes_segments = TOKEN_TYPE_IDS in inspect.signature(model.forward).parameters

    @classmethod
    def load(cls, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> OriginalEncoder:
        """Build the checkpoint's architecture in `dtype` and fill it.

        Raises CheckpointError that names every tensor missing or misshapen.
        """
        return cls(load_encoder(checkpoint, dtype))

    def hidden(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Hidden:
        """Return the last hidden state [B, S, hidden] of `input_ids` [B, S].

        `attention_mask` [B, S] is 1 for tokens and 0 for padding; None means no padding.
        """
        mask = np.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.run({INPUT_IDS: input_ids, ATTENTION_MASK: mask})[LAST_HIDDEN_STATE]

    def run(self, feed: Mapping[str, NDArray[np.generic]]) -> OrderedDict[str, Hidden]:
        """Return the last hidden state by its name, for the inputs that our graphs have."""
        with torch.inference_mode():
            output = self.model(**{name: torch.from_numpy(array) for name, array in feed.items()})
        return OrderedDict({LAST_HIDDEN_STATE: output[0].float().numpy()})
