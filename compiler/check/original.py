"""Run the original model as Hugging Face runs it, filled from the checkpoint tensor by tensor."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from copy import deepcopy
from typing import TypeAlias

import numpy as np
import torch
from accelerate import init_empty_weights
from numpy.typing import NDArray
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from castline.errors import CheckpointError, UnsupportedArchitectureError
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.conversion import converted
from castline.exporters.interface import runs_remote_code
from castline.exporters.names import ATTENTION_MASK, INPUT_IDS, POSITION_IDS

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
        return cls(_filled(checkpoint, AutoModelForCausalLM, dtype))

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


def token_inputs(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return how `model` is called for the tokens [B, S] at the end of a mask [B, total].

    Their positions are said to every model that takes them; ALiBi counts them in the mask.
    """
    inputs = {INPUT_IDS: input_ids, ATTENTION_MASK: attention_mask}
    if POSITION_IDS in inspect.signature(model.forward).parameters:
        counted = torch.from_numpy(positions(attention_mask.numpy()))
        inputs[POSITION_IDS] = counted[:, -input_ids.shape[1] :]
    return inputs


def positions(attention_mask: Tokens) -> Tokens:
    """Return the position of each token [B, S] for a mask [B, S]; padding on the left has 0."""
    counted: Tokens = attention_mask.cumsum(axis=1)
    return np.maximum(counted - 1, 0)


def load_encoder(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return the checkpoint's encoder without pooler or heads in `dtype`, filled, to evaluate.

    It is called with input_ids and attention_mask [B, S], and token_type_ids where it has segments;
    its output has last_hidden_state [B, S, hidden]. Raises as `OriginalModel.load`.
    """
    return _filled(checkpoint, AutoModel, dtype)


def _filled(
    checkpoint: Checkpoint,
    builder: type[AutoModel | AutoModelForCausalLM],
    dtype: torch.dtype,
) -> PreTrainedModel:
    try:
        with init_empty_weights(include_buffers=False):
            # The configuration is copied because building a model writes into it; attention
            # None means scaled dot product attention, or eager where the model cannot use it.
            model: PreTrainedModel = builder.from_config(
                deepcopy(checkpoint.config),
                dtype=dtype,
                attn_implementation=None,
                trust_remote_code=runs_remote_code(checkpoint.config),
            )
    except ValueError as error:
        kind = "a language model" if builder is AutoModelForCausalLM else "an encoder"
        raise UnsupportedArchitectureError(
            f"{checkpoint.source}: transformers cannot build {checkpoint.config.model_type} as "
            f"{kind}: {error}"
        ) from error
    if builder is AutoModel and getattr(model, "pooler", None) is not None:
        # Checkpoints with a masked language model's head have none, and no hidden state reads it.
        model.pooler = None
    fill(model, checkpoint, dtype)
    return model.eval().requires_grad_(False)


def fill(model: PreTrainedModel, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    """Give each parameter and persistent buffer of `model` its value, one at a time.

    Tensors that the model has no place for are not looked at.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model)}
    checkpoint = converted(checkpoint, model, shapes).checkpoint
    missing: set[str] = set()
    misshapen: dict[str, str] = {}
    for name, current in list(named_tensors(model)):
        if name not in checkpoint.tensors:
            missing.add(name)
            continue
        shape = checkpoint.tensors[name].shape
        if shape != shapes[name]:
            misshapen[name] = f"{name} is {list(shape)}, expected {list(shapes[name])}"
            continue
        assign(model, name, _read(checkpoint, name, current, dtype))
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


def _read(
    checkpoint: Checkpoint, name: str, current: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Return the tensor in `dtype`, or in the dtype of `current` if that holds integers.

    A stack of experts is filled one by one, so it is in memory once.
    """
    dtype = dtype if current.dtype.is_floating_point else current.dtype
    parts = checkpoint.parts(name)
    first = _torch_from_numpy(next(parts), dtype)
    if first.shape == current.shape:
        return first
    whole = torch.empty(current.shape, dtype=dtype)
    whole[: len(first)], end = first, len(first)
    for part in parts:
        begin, end = end, end + len(part)
        whole[begin:end] = _torch_from_numpy(part, dtype)
    return whole


def _torch_from_numpy(array: NDArray[np.generic], dtype: torch.dtype) -> torch.Tensor:
    """Return a copy in `dtype`, by way of float32, since torch does not take NumPy's bfloat16."""
    if not dtype.is_floating_point:
        return torch.tensor(array, dtype=dtype)
    return torch.from_numpy(np.array(array, dtype=np.float32)).to(dtype)
