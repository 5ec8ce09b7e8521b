"""Build a checkpoint's model in torch without weights, and fill it tensor by tensor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
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
Builder: TypeAlias = type[AutoModel | AutoModelForCausalLM]

_CPU = torch.device("cpu")


def filled_model(checkpoint: Checkpoint, builder: Builder, dtype: torch.dtype) -> PreTrainedModel:
    """Return the checkpoint's model with all its weights. Raises as `empty_model` and `fill`."""
    model = empty_model(checkpoint, builder, dtype)
    TorchWeights(model, checkpoint, dtype).fill()
    return model


def empty_model(checkpoint: Checkpoint, builder: Builder, dtype: torch.dtype) -> PreTrainedModel:
    """Return the checkpoint's model with its parameters on the meta device; buffers are real.

    It is in evaluation mode and without gradients, an encoder without its pooler. Raises
    UnsupportedArchitectureError where transformers has no such model.
    """
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
    return model.eval().requires_grad_(False)


class TorchWeights:
    """The way from a checkpoint's tensors to a model's parameters and persistent buffers."""

    def __init__(
        self,
        model: PreTrainedModel,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        device: torch.device = _CPU,
    ) -> None:
        self._model = model
        self._shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model)}
        self._checkpoint = converted(checkpoint, model, self._shapes).checkpoint
        self._dtype = dtype
        self._device = device

    @property
    def names(self) -> tuple[str, ...]:
        """Every parameter and persistent buffer, tied ones under each of their names."""
        return tuple(self._shapes)

    def stores(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor of this name in the model's shape."""
        spec = self._checkpoint.tensors.get(name)
        return spec is not None and spec.shape == self._shapes[name]

    def rows_of(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what gives rows [n, K] of a matrix for indices [n]; see `Checkpoint.rows_of`."""
        stored = self._checkpoint.rows_of(name)

        def rows(indices: torch.Tensor) -> torch.Tensor:
            chosen = stored(indices.cpu().numpy())
            return _torch_from_numpy(chosen, self._dtype).to(self._device)

        return rows

    def fill(self, names: Collection[str] | None = None) -> None:
        """Give those of `names` (None: all) their values, one at a time, and tie what is tied.

        Tensors that the model has no place for are not looked at. Raises CheckpointError that names
        every tensor missing or misshapen.
        """
        wanted = self._shapes.keys() if names is None else set(names)
        missing: set[str] = set()
        misshapen: dict[str, str] = {}
        for name, current in list(named_tensors(self._model)):
            if name not in wanted:
                continue
            if name not in self._checkpoint.tensors:
                missing.add(name)
                continue
            shape = self._checkpoint.tensors[name].shape
            if shape != self._shapes[name]:
                expected = list(self._shapes[name])
                misshapen[name] = f"{name} is {list(shape)}, expected {expected}"
                continue
            assign(self._model, name, self._read(name, current))
        if missing or misshapen:
            self._tie(missing, misshapen)

    def drop(self, names: Collection[str]) -> None:
        """Let the memory of those parameters and buffers go; they are on the meta device then."""
        for name, current in list(named_tensors(self._model)):
            if name in names:
                assign(self._model, name, current.to("meta"))

    def _tie(self, missing: set[str], misshapen: dict[str, str]) -> None:
        # Ties what is absent to what was there, and removes it from `absent`; two tensors that were
        # both there and differ stay apart, whatever the configuration says.
        absent = missing | misshapen.keys()
        self._model.tie_weights(missing_keys=absent, recompute_mapping=False)
        missing &= absent
        if missing or misshapen:
            problems = [f"{name} is missing" for name in sorted(missing)] + [*misshapen.values()]
            config = self._checkpoint.config
            raise CheckpointError(
                f"{self._checkpoint.source} does not hold the weights of its configuration "
                f"({config.model_type}): {'; '.join(problems)}."
            )

    def _read(self, name: str, current: torch.Tensor) -> torch.Tensor:
        """Return the tensor in the model's dtype, or in that of `current` if it holds integers.

        A stack of experts is filled one by one, so it is in memory once.
        """
        dtype = self._dtype if current.dtype.is_floating_point else current.dtype
        parts = self._checkpoint.parts(name)
        first = _torch_from_numpy(next(parts), dtype)
        if first.shape == current.shape:
            return first.to(self._device)
        whole = torch.empty(current.shape, dtype=dtype, device=self._device)
        whole[: len(first)], end = first, len(first)
        for part in parts:
            begin, end = end, end + len(part)
            whole[begin:end] = _torch_from_numpy(part, dtype)
        return whole


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


def token_inputs(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return how `model` is called for the tokens [B, S] at the end of a mask [B, total].

    Their positions are said to every model that takes them; ALiBi counts them in the mask.
    """
    inputs = {INPUT_IDS: input_ids, ATTENTION_MASK: attention_mask}
    if POSITION_IDS in inspect.signature(model.forward).parameters:
        counted = torch.from_numpy(positions(attention_mask.cpu().numpy())).to(input_ids.device)
        inputs[POSITION_IDS] = counted[:, -input_ids.shape[1] :]
    return inputs


def positions(attention_mask: Tokens) -> Tokens:
    """Return the position of each token [B, S] for a mask [B, S]; padding on the left has 0."""
    counted: Tokens = attention_mask.cumsum(axis=1)
    return np.maximum(counted - 1, 0)


def _torch_from_numpy(array: NDArray[np.generic], dtype: torch.dtype) -> torch.Tensor:
    """Return a copy in `dtype`, by way of float32, since torch does not take NumPy's bfloat16."""
    if not dtype.is_floating_point:
        return torch.tensor(array, dtype=dtype)
    return torch.from_numpy(np.array(array, dtype=np.float32)).to(dtype)
