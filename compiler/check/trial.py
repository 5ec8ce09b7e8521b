"""Try an architecture that no test covers: a few of its layers against Hugging Face's own code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from castline.compiler.check.memory import available_memory
from castline.compiler.targets.runtime import LOG_FATAL_ONLY, onnxruntime_module, runtime_errors
from castline.errors import UnsupportedArchitectureError
from castline.exporters import names
from castline.exporters.attention import own_attention
from castline.exporters.export import CutModel
from castline.exporters.torch_model import positions, token_inputs

Array: TypeAlias = NDArray[np.generic]
Tokens: TypeAlias = NDArray[np.int64]
Feed: TypeAlias = dict[str, Array]
Run: TypeAlias = Callable[[Feed], Feed]

TOLERANCE = 1e-4  # max |difference| / max |reference|, float32; sound exports are below 1e-5
# What a model's own code raises, beside RuntimeError, where a cache or a mask is not to its liking.
_OF_MODEL_CODE = (AttributeError, LookupError, TypeError, ValueError)
_PROMPT, _PADDING, _STEPS = 16, 5, 2  # tokens, tokens, further tokens
_BYTES = 4  # of a float32 weight
_BESIDE = 1.5  # ONNX Runtime's own copies and the activations


def try_out(cut: CutModel, available: int | None = None) -> float:
    """Return the largest relative error of a cut model's graph for random weights and tokens.

    A prompt, two further tokens with its cache, and a batch with padding are compared where they
    are no padding. `available` is the memory it may take in bytes; None asks the system.
    Raises UnsupportedArchitectureError where the graph cannot run, is not equal within TOLERANCE,
    or cannot be tried for want of memory. The model's weights are overwritten.
    """
    architecture = type(cut.model).__name__
    _require_memory(cut, available_memory() if available is None else available)
    _fill(cut.model)
    _use_own_code(cut.model)
    with _refused(architecture):
        run = _session(cut.graph, _weights(cut.model))
        compare = _decoding_error if cut.interface.cached else _reading_error
        worst = _worst(compare(cut, run, padding) for padding in (0, _PADDING))
    if not worst <= TOLERANCE:
        raise UnsupportedArchitectureError(
            f"{architecture} was tried with random weights, and its graph differs from Hugging "
            f"Face's own code by {worst:.3g} of the largest value (at most {TOLERANCE:.0e} is "
            f"allowed). The architecture is not exported: the graph would answer wrongly."
        )
    return worst


def _require_memory(cut: CutModel, available: int | None) -> None:
    elements = sum(parameter.numel() for parameter in cut.model.parameters())
    needed = int(elements * _BYTES * _BESIDE)
    if available is not None and needed > available:
        raise UnsupportedArchitectureError(
            f"{type(cut.model).__name__} is none of the architectures that are known to export, so "
            f"a few of its layers must be tried first. That takes about {needed / 1e9:.1f} GB of "
            f"memory, and {available / 1e9:.1f} GB are available."
        )


def _fill(model: PreTrainedModel) -> None:
    """Give every parameter random values that keep activations near one and biases visible."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=random)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.3, generator=random)
            else:
                parameter.uniform_(0.5, 1.5, generator=random)


def _use_own_code(model: PreTrainedModel) -> None:
    """Undo what tracing set: the reference shall be the model's own attention and experts."""
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = own_attention(model)
            module.config._experts_implementation = "eager"


@contextmanager
def _refused(architecture: str) -> Iterator[None]:
    try:
        yield
    except runtime_errors() + _OF_MODEL_CODE as error:
        raise UnsupportedArchitectureError(
            f"{architecture} was tried with random weights, and its graph or its own code does not "
            f"run: {error}"
        ) from error


def _session(graph: ir.Model, weights: Feed) -> Run:
    onnxruntime = onnxruntime_module()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_FATAL_ONLY
    serialized = ir.to_proto(graph).SerializeToString()
    session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    inputs = [node.name for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs()]

    def run(feed: Feed) -> Feed:
        given = weights | feed
        found = session.run(outputs, {name: given[name] for name in inputs})
        return dict(zip(outputs, found, strict=True))

    return run


def _weights(model: PreTrainedModel) -> Feed:
    stored = (*model.named_parameters(remove_duplicate=False), *model.named_buffers())
    return {name: tensor.detach().numpy() for name, tensor in stored}


def _reading_error(cut: CutModel, run: Run, padding: int) -> float:
    """Return the relative error of an encoder's hidden states; padding is on the right."""
    ids, mask = _tokens(cut.model, 2, _PROMPT), np.ones((2, _PROMPT), np.int64)
    mask[0, _PROMPT - padding :] = 0
    tokens = {name: _tokens_of(ids, mask)[name] for name in cut.interface.tokens}
    with torch.inference_mode():
        given = {name: torch.from_numpy(array) for name, array in tokens.items()}
        reference = cut.model(**given)[0].numpy()
    return _relative(reference, run(tokens)[cut.interface.output], mask)


def _decoding_error(cut: CutModel, run: Run, padding: int) -> float:
    """Return the largest relative error of the logits of a prompt and of what follows it."""
    ids, mask = _tokens(cut.model, 2, _PROMPT), np.ones((2, _PROMPT), np.int64)
    mask[0, :padding] = 0
    past = _empty_past(cut.graph)
    reference_past = DynamicCache(config=cut.model.config)
    worst = 0.0
    for _ in range(1 + _STEPS):
        new = ids.shape[1]
        inputs = token_inputs(cut.model, torch.from_numpy(ids), torch.from_numpy(mask))
        with torch.inference_mode():
            output = cut.model(**inputs, past_key_values=reference_past, use_cache=True)
        found = run(_tokens_of(ids, mask) | past)
        error = _relative(output.logits.numpy(), found[cut.interface.output], mask[:, -new:])
        worst = _worst((worst, error))
        past = {
            name.replace(names.PRESENT_PREFIX, names.PAST_PREFIX): array
            for name, array in found.items()
            if name.startswith(names.PRESENT_PREFIX)
        }
        ids = _tokens(cut.model, 2, 1)
        mask = np.concatenate([mask, np.ones((2, 1), np.int64)], axis=1)
    return worst


def _worst(errors: Iterable[float]) -> float:
    return float(np.max(list(errors)))  # keeps a nan, where Python's max may lose it


def _tokens(model: PreTrainedModel, rows: int, length: int) -> Tokens:
    return np.random.default_rng(length).integers(0, model.config.vocab_size, (rows, length))


def _tokens_of(ids: Tokens, mask: Tokens) -> Feed:
    """Return every input that says what the tokens [B, S] at the end of a mask [B, total] are."""
    return {
        names.INPUT_IDS: ids,
        names.ATTENTION_MASK: mask,
        names.POSITION_IDS: positions(mask)[:, -ids.shape[1] :],
        names.TOKEN_TYPE_IDS: np.zeros_like(ids),
    }


def _empty_past(graph: ir.Model) -> Feed:
    empty: Feed = {}
    for value in graph.graph.inputs:
        if str(value.name).startswith(names.PAST_PREFIX):
            assert value.shape is not None, "stamping declares the caches' shapes"
            heads, width = value.shape[1], value.shape[3]
            assert isinstance(heads, int), "stamping keeps them"
            assert isinstance(width, int), "stamping keeps them"
            empty[str(value.name)] = np.zeros((2, heads, 0, width), np.float32)
    return empty


def _relative(reference: Array, result: Array, mask: Array) -> float:
    tokens = mask.astype(bool)
    a, b = reference[tokens], result[tokens]
    return float(np.abs(a - b).max() / np.abs(a).max())
