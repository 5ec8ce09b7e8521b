"""Run the original model as Hugging Face runs it, filled from the checkpoint tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Protocol, TypeAlias

import numpy as np
import torch
from accelerate import init_empty_weights
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from castline.errors import CheckpointError, UnsupportedArchitectureError

Tokens: TypeAlias = NDArray[np.int64]
Logits: TypeAlias = NDArray[np.float32]


class Weights(Protocol):
    """The parts of a Checkpoint that are read here."""

    @property
    def source(self) -> str: ...
    @property
    def config(self) -> PretrainedConfig: ...
    @property
    def tensors(self) -> Mapping[str, object]: ...
    def read(self, name: str) -> NDArray[np.generic]: ...


class OriginalModel:
    """The model in torch, in evaluation mode, without gradients."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    @classmethod
    def load(cls, checkpoint: Weights, dtype: torch.dtype = torch.float32) -> OriginalModel:
        """Build the checkpoint's architecture in `dtype` and fill it.

        Raises CheckpointError that names every tensor missing or misshapen.
        """
        try:
            with init_empty_weights(include_buffers=False):
                # The configuration is copied because building a model writes into it; attention
                # None means scaled dot product attention, or eager where the model cannot use it.
                model = AutoModelForCausalLM.from_config(
                    deepcopy(checkpoint.config),
                    dtype=dtype,
                    attn_implementation=None,
                    trust_remote_code=False,
                )
        except ValueError as error:
            raise UnsupportedArchitectureError(
                f"{checkpoint.source}: transformers cannot build {checkpoint.config.model_type} as "
                f"a language model: {error}"
            ) from error
        fill(model, checkpoint, dtype)
        return cls(model.eval().requires_grad_(False))

    def logits(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Logits:
        """Return the logits [B, S, V] of `input_ids` [B, S], read from the beginning.

        `attention_mask` [B, S] is 1 for tokens and 0 for padding; None means no padding.
        """
        mask = np.ones_like(input_ids) if attention_mask is None else attention_mask
        with torch.inference_mode():
            output = self.model(
                input_ids=torch.from_numpy(input_ids),
                attention_mask=torch.from_numpy(mask),
                position_ids=torch.from_numpy(positions(mask)),
                use_cache=False,
            )
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


def positions(attention_mask: Tokens) -> Tokens:
    """Return the position of each token [B, S] for a mask [B, S]; padding on the left has 0."""
    counted: Tokens = attention_mask.cumsum(axis=1)
    return np.maximum(counted - 1, 0)


def fill(model: PreTrainedModel, checkpoint: Weights, dtype: torch.dtype) -> None:
    """Give each parameter and persistent buffer of `model` its value, one at a time."""
    missing: set[str] = set()
    misshapen: dict[str, str] = {}
    for name, current in list(named_tensors(model)):
        if name not in checkpoint.tensors:
            missing.add(name)
            continue
        value = torch_from_numpy(checkpoint.read(name), current, dtype)
        if value.shape != current.shape:
            misshapen[name] = f"{name} is {list(value.shape)}, expected {list(current.shape)}"
            continue
        assign(model, name, value)
    # Ties what is absent to what was there, and removes it from `absent`; two tensors that were
    # both there and differ stay apart, whatever the configuration says.
    absent = missing | misshapen.keys()
    model.tie_weights(missing_keys=absent, recompute_mapping=False)
    missing &= absent
    if missing or misshapen:
        problems = [f"{name} is missing" for name in sorted(missing)] + [*misshapen.values()]
        raise CheckpointError(
            f"{checkpoint.source} does not hold the weights of its configuration "
            f"({checkpoint.config.model_type}): {'; '.join(problems)}."
        )


def named_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what a checkpoint holds: parameters, tied ones too, and persistent buffers."""
    yield from model.named_parameters(remove_duplicate=False)
    persistent = model.state_dict().keys()
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name in persistent:
            yield name, buffer


def assign(model: PreTrainedModel, name: str, value: torch.Tensor) -> None:
    """Put `value` in the place of the parameter or buffer called `name`."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._parameters:
        module._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[leaf] = value


def torch_from_numpy(
    array: NDArray[np.generic], current: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Return a copy of `array` in `dtype`, or in the dtype of `current` if that holds integers.

    By way of float32, since torch does not take NumPy's bfloat16 and float8.
    """
    if not current.dtype.is_floating_point:
        return torch.tensor(array, dtype=current.dtype)
    return torch.from_numpy(np.array(array, dtype=np.float32)).to(dtype)
