"""Trace a cut model to an ONNX graph whose weights are inputs."""

from __future__ import annotations

import contextlib
import gc
import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch
from onnxscript import optimizer
from onnxscript.rewriter import onnx_fusions
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import DynamicCache, PreTrainedModel

from castline.errors import UnsupportedArchitectureError
from castline.exporters import names
from castline.exporters.angles import repeat_angles
from castline.exporters.attention import broadcasting_heads, use_exportable_attention
from castline.exporters.experts import use_dense_experts
from castline.exporters.gemm import split_gemms
from castline.exporters.refusals import refusing
from castline.exporters.skeleton import Skeleton
from castline.exporters.template import ROOT
from castline.exporters.widen import widen_bfloat16

OPSET = 23  # the first with Attention, RMSNormalization and RotaryEmbedding; fusions match only it
_INPUT_SPEC = "pkg.torch.export.graph_signature.InputSpec"  # metadata that the exporter leaves
# Example sizes, all different and above one: export takes a size of one for a constant.
_BATCH, _SEQUENCE, _PAST = 2, 3, 5
_CACHE_RANK = 4  # [batch, kv_heads, past, width]
_NEVER = 1 << 62  # no constant is too large to be merged with an equal one


def trace(skeleton: Skeleton) -> ir.Model:
    """Return the ONNX graph of a cut model, opset 23, float32.

    Inputs are those of the interface, and then every parameter and persistent buffer under its own
    name: no pass can fold, merge or rename a weight that way.
    """
    use_exportable_attention(skeleton.model)
    use_dense_experts(skeleton.model)
    interface, layers = skeleton.interface, len(skeleton.kept)
    wrapped = _Decoder if interface.cached else _Encoder
    example = _example(skeleton)
    tried = (
        f"torch.export of {layers} of its layers, on {_BATCH} rows of {_SEQUENCE} new tokens, and "
        f"its translation to ONNX opset {OPSET}"
    )
    with (
        _quiet(),
        _without_garbage_collection(),
        broadcasting_heads(),
        refusing(_architecture(skeleton), tried),
    ):
        program = torch.onnx.export(
            wrapped(skeleton.model),
            args=example,
            dynamic_shapes=_dynamic_shapes(skeleton),
            input_names=interface.input_names(layers),
            output_names=interface.output_names(layers),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        model: ir.Model = program.model
        _weights_to_inputs(model)
        _simplify(model)
    return model


class _Decoder(torch.nn.Module):  # type: ignore[misc]  # torch is not followed, so it is Any
    """A causal language model with a flat list of cache tensors."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.m = model
        self.takes_positions = names.POSITION_IDS in inspect.signature(model.forward).parameters

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        # Without a configuration every layer keeps its whole cache, and windows live in the mask.
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        # Models without position_ids take their positions from the attention mask (ALiBi).
        positions = {names.POSITION_IDS: position_ids} if self.takes_positions else {}
        output = self.m(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            **positions,
        )
        presents = [t for layer in cache.layers for t in (layer.keys, layer.values)]
        return output.logits, *presents


class _Encoder(torch.nn.Module):  # type: ignore[misc]
    """An encoder without what stands on top of its last hidden state."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.m = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        segments = {} if token_type_ids is None else {names.TOKEN_TYPE_IDS: token_type_ids}
        return self.m(input_ids=input_ids, attention_mask=attention_mask, **segments)[0]


def _example(skeleton: Skeleton) -> tuple[object, ...]:
    values = {
        names.INPUT_IDS: torch.zeros(_BATCH, _SEQUENCE, dtype=torch.int64),
        names.ATTENTION_MASK: torch.ones(_BATCH, _past(skeleton) + _SEQUENCE, dtype=torch.int64),
        names.POSITION_IDS: torch.arange(_PAST, _PAST + _SEQUENCE).repeat(_BATCH, 1),
        names.TOKEN_TYPE_IDS: torch.zeros(_BATCH, _SEQUENCE, dtype=torch.int64),
    }
    tokens = tuple(values[name] for name in skeleton.interface.tokens)
    if not skeleton.interface.cached:
        return tokens
    shapes = _cache_shapes(skeleton)
    past = [torch.zeros(_BATCH, heads, _PAST, width) for heads, width in shapes]
    return (*tokens, past)


def _past(skeleton: Skeleton) -> int:
    return _PAST if skeleton.interface.cached else 0


def _cache_shapes(skeleton: Skeleton) -> list[tuple[int, int]]:
    """Return the heads and width of each cache tensor, key before value, as the model makes them.

    Nothing is computed: the weights' pages stay untouched. Raises UnsupportedArchitectureError
    where a layer keeps anything else, as recurrent layers do.
    """
    architecture = _architecture(skeleton)
    cache = DynamicCache()
    with (
        refusing(architecture, "one token with a cache of keys and values"),
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.no_grad(),
    ):
        ids = torch.zeros(1, 1, dtype=torch.int64)
        skeleton.model(input_ids=ids, past_key_values=cache, use_cache=True)
        tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    if len(tensors) != len(names.SLOTS) * len(skeleton.kept) or any(
        t.ndim != _CACHE_RANK for t in tensors
    ):
        raise UnsupportedArchitectureError(
            f"{architecture} keeps another state than one key and one value of 4 dimensions for "
            "each layer, as recurrent layers do. Only caches of keys and values can be exported."
        )
    return [(tensor.shape[1], tensor.shape[3]) for tensor in tensors]


def _architecture(skeleton: Skeleton) -> str:
    return type(skeleton.model).__name__


def _dynamic_shapes(skeleton: Skeleton) -> tuple[object, ...]:
    row = {0: names.BATCH, 1: names.SEQUENCE}
    if not skeleton.interface.cached:
        return (row,) * len(skeleton.interface.tokens)
    total = {0: names.BATCH, 1: names.TOTAL}
    tokens = (total if n == names.ATTENTION_MASK else row for n in skeleton.interface.tokens)
    past = {0: names.BATCH, 2: names.PAST}
    return (*tokens, [past] * (len(names.SLOTS) * len(skeleton.kept)))


def _weights_to_inputs(model: ir.Model) -> None:
    """Turn parameters and persistent buffers into inputs; what a module computes stays constant."""
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        value.name = name.removeprefix(ROOT)
        if _is_stored(value):
            graph.initializers.pop(value.name)
            value.const_value = None
            graph.inputs.append(value)


def _is_stored(value: ir.Value) -> bool:
    told = value.metadata_props
    if told.get(f"{_INPUT_SPEC}.kind") not in ("PARAMETER", "BUFFER"):
        return False
    return told.get(f"{_INPUT_SPEC}.persistent") != "False"


def _simplify(model: ir.Model) -> None:
    constants = common_passes.DeduplicateInitializersPass(size_limit=_NEVER)
    optimizer.optimize_ir(model)
    widen_bfloat16(model.graph)
    split_gemms(model.graph)
    constants(model)
    common_passes.CommonSubexpressionEliminationPass()(model)
    onnx_fusions.fuse(model)
    repeat_angles(model.graph)
    # The rotary fusion makes one Cos and Sin per use; they merge again here.
    common_passes.CommonSubexpressionEliminationPass()(model)
    common_passes.RemoveUnusedNodesPass()(model)
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True)(model)
    constants(model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what torch and onnxscript tell about their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Keep Python from searching all that torch holds for cycles: a sixth of the tracing time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
