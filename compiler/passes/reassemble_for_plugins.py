"""Write castline.ReassembleChannels as plugins read it, and together with what quantizes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.channel_factors import map_of, reassemblies
from castline.compiler.passes.initializers import constant
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.replace import remove_unused, take_over
from castline.compiler.quant.arrays import Array
from castline.plugins.op import DOMAIN, PluginOp
from castline.plugins.quantize_per_token.op import (
    QUANTIZE_PER_TOKEN,
    QUANTIZE_PER_TOKEN_ASYMMETRIC,
)
from castline.plugins.reassemble_and_quantize.op import (
    REASSEMBLE_AND_QUANTIZE,
    REASSEMBLE_AND_QUANTIZE_ASYMMETRIC,
)
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS

_FUSED = {
    QUANTIZE_PER_TOKEN: REASSEMBLE_AND_QUANTIZE,
    QUANTIZE_PER_TOKEN_ASYMMETRIC: REASSEMBLE_AND_QUANTIZE_ASYMMETRIC,
}
_PARTS = REASSEMBLE_CHANNELS.inputs[1:]


@dataclass(frozen=True)
class ReassembleForPlugins:
    """Indices become int32, and places rise; each place keeps the order of its channels.

    Where one castline.QuantizePerToken is all that reads the result, both are one
    castline.ReassembleAndQuantize.
    """

    def __call__(self, model: ir.Model) -> int:
        """Rewrite `model` in place; return how many quantize, too."""
        fused = 0
        for node in reassemblies(model):
            if _is_written(node):
                continue
            _write(model.graph, node)
            fused += _fuse(model, node)
        return fused


def _is_written(node: ir.Node) -> bool:
    gather = node.inputs[1]
    return gather is not None and gather.dtype == ir.DataType.INT32


def _write(graph: ir.Graph, node: ir.Node) -> None:
    gather = node.inputs[1]
    assert gather is not None, "ReassembleInputs writes constants"
    path = str(gather.name).removesuffix("_gather")
    old = list(node.inputs[1:])
    for place, (part, array) in enumerate(zip(_PARTS, _sorted(*map_of(node)), strict=True), 1):
        node.replace_input_with(place, _shared(graph, f"{path}_plugin_{part}", array))
    for value in old:
        if value is not None and value.is_initializer() and not value.consumers():
            graph.initializers.pop(str(value.name))


def _shared(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    found = graph.initializers.get(name)
    return constant(graph, name, array) if found is None else found


def _sorted(
    gather: Array, scale: Array, place: Array, channel: Array, channel_scale: Array
) -> tuple[Array, ...]:
    """Return the parts in the types of plugins, in order of place; there is at least one place."""
    if not place.size:
        place, channel = np.zeros(1, np.int32), np.zeros(1, np.int32)
        channel_scale = np.zeros(1, np.float32)
    order = np.argsort(place, kind="stable")
    return (
        gather.astype(np.int32),
        np.ascontiguousarray(np.broadcast_to(scale, gather.shape)),
        place[order].astype(np.int32),
        channel[order].astype(np.int32),
        channel_scale[order],
    )


def _fuse(model: ir.Model, node: ir.Node) -> bool:
    """Put one op in the place of `node` and what quantizes its result, if that alone reads it."""
    value = node.outputs[0]
    users = value.consumers()
    quantize = _quantizer(users[0]) if len(users) == 1 else None
    if quantize is None or value.is_graph_output():
        return False
    (old,), op = users, _FUSED[quantize]
    op.define_in(model)
    path = str(node.name).rpartition("/")[0]
    writer = NodeWriter(model.graph, path, old)
    bits = {"bits": old.attributes.get_int("bits", 8)}
    results = writer.several(op.name, node.inputs, bits, len(op.outputs), DOMAIN)
    for before, after in zip(old.outputs, results, strict=True):
        take_over(before, after)
    remove_unused(model.graph, [old])
    return True


def _quantizer(node: ir.Node) -> PluginOp | None:
    return next((op for op in _FUSED if op.is_op_of(node)), None)
