"""Run the original model as Hugging Face runs it, filled from the checkpoint tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from castline.exporters.checkpoint import Checkpoint
from castline.exporters.torch_model import filled_model, token_inputs

Tokens: TypeAlias = NDArray[np.int64]
Logits: TypeAlias = NDArray[np.float32]


class OriginalModel:
    """The model in torch, in evaluation mode, without gradients."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    @classmethod
    def load(cls, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> OriginalModel:
        """Build the checkpoint's architecture with its language model head in `dtype`; fill it.

        Raises CheckpointError that names every tensor missing or misshapen.
        """
        return cls(filled_model(checkpoint, AutoModelForCausalLM, dtype))

    def logits(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Logits:
        """Return the logits [B, S, V] of `input_ids` [B, S], read from the beginning.

        `attention_mask` [B, S] is 1 for tokens and 0 for padding; None means no padding.
        """
        mask = np.ones_like(input_ids) if attention_mask is None else attention_mask
        with torch.inference_mode():
            inputs = token_inputs(self.model, torch.from_numpy(input_ids), torch.from_numpy(mask))
            output = self.model(**inputs, use_cache=False)
        return np.asarray(output.logits.float().numpy())

    def decode(self, input_ids: Tokens, *, max_new_tokens: int) -> Iterator[int]:
        """Yield the likeliest continuation of the prompt `input_ids` [1, S], token by token.

        It keeps a cache, as generation does, so that it can be timed beside a result.
        """
        new, cache = torch.from_numpy(input_ids), None
        for _ in range(max_new_tokens):
            with torch.inference_mode():
                output = self.model(input_ids=new, past_key_values=cache, use_cache=True)
            new, cache = output.logits[:, -1:].argmax(dim=-1), output.past_key_values
            yield int(new)


def load_encoder(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return the checkpoint's encoder without pooler or heads in `dtype`, filled, to evaluate.

    It is called with input_ids and attention_mask [B, S], and token_type_ids where it has segments;
    its output has last_hidden_state [B, S, hidden]. Raises as `OriginalModel.load`.
    """
    return filled_model(checkpoint, AutoModel, dtype)
