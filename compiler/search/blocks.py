"""Run a model block by block, with the weights of one block at a time in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from castline.compiler.search.cache_peaks import ObservedCache
from castline.compiler.search.embedding_rows import EmbeddingRows
from castline.errors import UnsupportedArchitectureError
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.interface import interface_of
from castline.exporters.layer_stack import layer_stack
from castline.exporters.names import ATTENTION_MASK, INPUT_IDS
from castline.exporters.torch_model import TorchWeights, empty_model, token_inputs

Tokens: TypeAlias = NDArray[np.int64]
Tensor: TypeAlias = torch.Tensor


class _Recorded(Exception):  # noqa: N818 - it ends a run that has told enough; nothing is wrong
    """Every block was called."""


@dataclass(frozen=True, eq=False)
class _Call:
    """How the model calls a block, apart from the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def without_cache(self) -> _Call:
        """Return the same call without the cache that keys and values would be put into."""
        return self.changed(lambda value: None if isinstance(value, ObservedCache) else value)

    def changed(self, change: Callable[[Any], Any]) -> _Call:
        """Return the call with each value changed, also those in tuples, lists and dicts."""
        return _Call(_changed(self.args, change), _changed(self.kwargs, change))


@dataclass(eq=False)
class _Recorder:
    """Stands in for the blocks while the rest of the model runs."""

    entering: Tensor | None = None
    """What entered the first block."""
    leaving: Tensor | None = None
    """What the last block gives back; None: the run ends there."""
    calls: dict[int, _Call] = field(default_factory=dict)


class BlockModel:
    """A checkpoint's model in torch whose blocks are filled, run and emptied one by one.

    Nothing here knows an architecture: the model's own code says how each block is called, by
    calling what stands in its place.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str = "cpu", *, observes_cache: bool = False
    ) -> None:
        """Build the model and fill what stands around its blocks.

        Embeddings and the head stay where they are until logits are asked for. Raises
        CheckpointError where tensors are missing, UnsupportedArchitectureError where there is not
        one list of layers.
        """
        self.device = torch.device(device)
        self.decodes = interface_of(checkpoint.config).cached
        builder = AutoModelForCausalLM if self.decodes else AutoModel
        self.model: PreTrainedModel = empty_model(checkpoint, builder, torch.float32)
        for part in self.model.modules():
            if hasattr(part, "config"):
                # Expert by expert, so that each product with a matrix of the stack can be seen.
                part.config._experts_implementation = "eager"
        self.stack, layers = layer_stack(self.model, checkpoint.config)
        self.blocks = tuple(layers)
        self._weights = TorchWeights(self.model, checkpoint, torch.float32, self.device)
        _move_buffers(self.model, self.device)
        inside = tuple(self.prefix(index) for index in range(len(self.blocks)))
        outside = [name for name in self._weights.names if not name.startswith(inside)]
        tables = _embeddings(self.model, outside)
        self._deferred: set[str] = set()
        """Of the weights around the blocks, those that only logits need in memory."""
        if all(self._weights.stores(name) for name in tables):
            self._deferred = tables.keys() | _head_names(self.model, outside)
        self._embeddings = EmbeddingRows(self._weights, tables)
        self._weights.fill([name for name in outside if name not in self._deferred])
        self._calls: dict[tuple[int, int], dict[int, _Call]] = {}
        self.cache = ObservedCache() if observes_cache else None
        self._beside: tuple[Any, ...] | None = None
        """What a block answers after its hidden states; None: not known yet."""
        self._answers_with_tuple = False
        with self.loaded(0):
            self._around(np.zeros((1, 2), np.int64))

    def prefix(self, index: int) -> str:
        """Return what the names of a block's parameters begin with."""
        return f"{self.stack}.{index}."

    def parameters(self, index: int) -> dict[str, Tensor]:
        """Return the parameters of a block by their names in the checkpoint."""
        prefix = self.prefix(index)
        return {prefix + name: value for name, value in self.blocks[index].named_parameters()}

    @contextmanager
    def loaded(self, index: int) -> Iterator[None]:
        """Hold the weights of one block in memory."""
        names = [name for name in self._weights.names if name.startswith(self.prefix(index))]
        self._weights.fill(names)
        try:
            yield
        finally:
            self._weights.drop(names)

    def entering(self, tokens: Tokens, rows: int) -> Iterator[Tensor]:
        """Yield what enters the first block, [rows, S, hidden], for tokens [B, S]."""
        with self._embeddings.held_open():
            for begin in range(0, len(tokens), rows):
                recorder = self._around(tokens[begin : begin + rows])
                assert recorder.entering is not None, "a model runs its blocks"
                yield recorder.entering

    def run(self, index: int, hidden: Tensor) -> Tensor:
        """Return what leaves a loaded block, for what enters it [B, S, hidden]."""
        call = self._calls_of(hidden)[index]
        with torch.inference_mode():
            return self._leaving(index, hidden, call)

    def run_learning(self, index: int, hidden: Tensor) -> Tensor:
        """Return the same, through which gradients flow back to `hidden`, and fill no cache.

        The block's own parameters take none. Under torch.no_grad it keeps nothing for them.
        """
        assert not torch.is_inference_mode_enabled(), "whoever learns needs gradients"
        call = self._calls_of(hidden)[index].without_cache()
        return self._leaving(index, hidden.clone() if hidden.is_inference() else hidden, call)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [B, S, V], or an encoder's last hidden state, after the last block."""
        self._weights.fill(self._deferred)
        self._deferred = set()
        tokens = np.zeros(hidden.shape[:2], np.int64)
        recorder = _Recorder(leaving=hidden.to(self.device))
        return self._output(tokens, recorder)

    def _leaving(self, index: int, hidden: Tensor, call: _Call) -> Tensor:
        return _hidden(self.blocks[index](hidden.to(self.device), *call.args, **call.kwargs))

    def _calls_of(self, hidden: Tensor) -> dict[int, _Call]:
        """Return how the blocks are called for hidden states of this many samples and tokens."""
        shape = (hidden.shape[0], hidden.shape[1])
        if shape not in self._calls:
            tokens = np.zeros(shape, np.int64)
            with self._embeddings.held_open():
                first = self._around(tokens).calls
                other = self._around(tokens + 1).calls
            _require_equal(first, other, type(self.model).__name__)
            self._calls[shape] = _for_gradients(first)
        return self._calls[shape]

    def _around(self, tokens: Tokens) -> _Recorder:
        """Return how the blocks are called; what comes after the last one is not computed."""
        recorder = _Recorder()
        with suppress(_Recorded):
            self._output(tokens, recorder)
        return recorder

    def _output(self, tokens: Tokens, recorder: _Recorder) -> Tensor:
        ids = torch.from_numpy(tokens).to(self.device)
        mask = torch.ones_like(ids)
        inputs: dict[str, Any] = {INPUT_IDS: ids, ATTENTION_MASK: mask}
        if self.decodes:
            inputs = {**token_inputs(self.model, ids, mask), "use_cache": self.cache is not None}
            inputs["past_key_values"] = self.cache
        with torch.inference_mode(), self._standing_in(recorder), self._embeddings.answering():
            output = self.model(**inputs)
        return output.logits if self.decodes else output[0]

    @contextmanager
    def _standing_in(self, recorder: _Recorder) -> Iterator[None]:
        """Let every block note how it is called and give back what the recorder says."""
        for index, block in enumerate(self.blocks):
            block.forward = self._stand_in(index, recorder)
        try:
            yield
        finally:
            for block in self.blocks:
                del block.forward

    def _stand_in(self, index: int, recorder: _Recorder) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            given = dict(kwargs)
            hidden, rest = (args[0], args[1:]) if args else (given.pop("hidden_states"), ())
            recorder.calls[index] = _Call(tuple(rest), given)
            if index == 0:
                recorder.entering = hidden
            if self._beside is None:
                block = self.blocks[index]
                answer = type(block).forward(block, *args, **kwargs)
                self._beside = tuple(answer[1:]) if isinstance(answer, tuple) else ()
                self._answers_with_tuple = isinstance(answer, tuple)
            leaving = hidden
            if index == len(self.blocks) - 1:
                if recorder.leaving is None:
                    raise _Recorded
                leaving = recorder.leaving
            return (leaving, *self._beside) if self._answers_with_tuple else leaving

        return forward


def _embeddings(model: PreTrainedModel, names: list[str]) -> dict[str, torch.nn.Embedding]:
    """Return the embeddings of a model whose weights are among `names`, by their weights' names."""
    found = {f"{path}.weight": module for path, module in model.named_modules()}
    return {n: found[n] for n in names if isinstance(found.get(n), torch.nn.Embedding)}


def _head_names(model: PreTrainedModel, names: list[str]) -> set[str]:
    """Return those of `names` that belong to the head, which makes logits of hidden states."""
    head = model.get_output_embeddings()
    paths = tuple(f"{path}." for path, module in model.named_modules() if module is head)
    return {name for name in names if name.startswith(paths)}


def _hidden(answer: Any) -> Tensor:
    """Return the hidden states of what a block answers: they come alone, or first of several."""
    hidden = answer[0] if isinstance(answer, tuple) else answer
    assert torch.is_tensor(hidden), "blocks answer with hidden states"
    return hidden


def _move_buffers(model: PreTrainedModel, device: torch.device) -> None:
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.device.type != "meta":
                module._buffers[name] = buffer.to(device)


def _require_equal(first: dict[int, _Call], other: dict[int, _Call], architecture: str) -> None:
    """Refuse a model that tells its blocks more of the tokens than their hidden states."""
    for index, call in first.items():
        for a, b in zip(_tensors(call), _tensors(other[index]), strict=True):
            if a.shape != b.shape or not torch.equal(a, b):
                raise UnsupportedArchitectureError(
                    f"{architecture}: block {index} is given more of the tokens than its hidden "
                    "states, so its blocks cannot be run one by one, which calibration does. "
                    "Recipes without calibration, such as w8a16-rtn, do not need it."
                )


def _for_gradients(calls: dict[int, _Call]) -> dict[int, _Call]:
    """Return the calls with tensors that a backward pass may keep; those recorded are inference's.

    What blocks share stays shared: a mask is [S, S].
    """
    copies: dict[int, Tensor] = {}

    def copied(value: Any) -> Any:
        if not torch.is_tensor(value):
            return value
        if id(value) not in copies:
            copies[id(value)] = value.clone()
        return copies[id(value)]

    with torch.inference_mode(False):
        return {index: call.changed(copied) for index, call in calls.items()}


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {name: _changed(part, change) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_changed(part, change) for part in value)
    return change(value)


def _tensors(call: _Call) -> Iterator[Tensor]:
    pending: list[Any] = [*call.args, *call.kwargs.values()]
    while pending:
        value = pending.pop()
        if torch.is_tensor(value):
            yield value
        elif isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list | tuple):
            pending.extend(value)
