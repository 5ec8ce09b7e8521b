"""Trace a cut decoder to an ONNX graph whose weights are inputs."""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch
from onnxscript import optimizer
from onnxscript.rewriter import onnx_fusions
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PretrainedConfig
from transformers.masking_utils import sdpa_mask

from castline.exporters import names
from castline.exporters.skeleton import Skeleton
from castline.exporters.template import ROOT

OPSET = 23  # the first with Attention, RMSNormalization and RotaryEmbedding; fusions match only it
_ATTENTION = "castline_grouped"
_INPUT_SPEC = "pkg.torch.export.graph_signature.InputSpec"  # metadata that the exporter leaves
# Example sizes, all different and above one: export takes a size of one for a constant.
_BATCH, _SEQUENCE, _PAST = 2, 3, 5
_NEVER = 1 << 62  # no constant is too large to be merged with an equal one


def trace(skeleton: Skeleton) -> ir.Model:
    """Return the ONNX graph of a cut model, opset 23, float32.

    Inputs are input_ids, attention_mask, position_ids, the caches, and then every parameter and
    persistent buffer under its own name: no pass can fold, merge or rename a weight that way.
    """
    _use_grouped_attention(skeleton.model)
    layers = len(skeleton.kept)
    with _quiet(), _without_garbage_collection():
        program = torch.onnx.export(
            _Decoder(skeleton.model, layers),
            args=_example(skeleton.model.config, layers),
            dynamic_shapes=_dynamic_shapes(layers),
            input_names=names.input_names(layers),
            output_names=names.output_names(layers),
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

    def __init__(self, model: torch.nn.Module, layers: int) -> None:
        super().__init__()
        self.m = model
        self.layers = layers

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        # Without a configuration every layer keeps its whole cache, and windows live in the mask.
        cache = DynamicCache([(past[2 * i], past[2 * i + 1]) for i in range(self.layers)])
        output = self.m(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        presents = [t for layer in cache.layers for t in (layer.keys, layer.values)]
        return output.logits, *presents


def _grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend without repeating key and value heads: ONNX Attention groups them itself."""
    output = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
        enable_gqa=getattr(module, "num_key_value_groups", 1) > 1,
    )
    return output.transpose(1, 2).contiguous(), None


def _use_grouped_attention(model: torch.nn.Module) -> None:
    AttentionInterface.register(_ATTENTION, _grouped_attention)
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = _ATTENTION


def _example(config: PretrainedConfig, layers: int) -> tuple[object, ...]:
    attention_heads = config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // attention_heads
    ids = torch.zeros(_BATCH, _SEQUENCE, dtype=torch.int64)
    mask = torch.ones(_BATCH, _PAST + _SEQUENCE, dtype=torch.int64)
    positions = torch.arange(_PAST, _PAST + _SEQUENCE).expand(_BATCH, -1).contiguous()
    past = [torch.zeros(_BATCH, heads, _PAST, width) for _ in range(2 * layers)]
    return ids, mask, positions, past


def _dynamic_shapes(layers: int) -> tuple[object, ...]:
    batch = torch.export.Dim(names.BATCH)
    sequence = torch.export.Dim(names.SEQUENCE)
    past = torch.export.Dim(names.PAST)
    return (
        {0: batch, 1: sequence},
        {0: batch, 1: torch.export.Dim.DYNAMIC},  # past + sequence: export derives it
        {0: batch, 1: sequence},
        [{0: batch, 2: past}] * (2 * layers),
    )


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
    constants(model)
    common_passes.CommonSubexpressionEliminationPass()(model)
    onnx_fusions.fuse(model)
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
