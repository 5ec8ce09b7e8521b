"""Lower reassembled channels to what changes: a few are set, a few are added to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.channel_factors import channel_factors, map_of, reassemblies
from castline.compiler.passes.initializers import constant
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.replace import remove_unused, take_over
from castline.compiler.quant.arrays import Array


@dataclass(frozen=True)
class ScatterChannels:
    """castline.ReassembleChannels becomes ScatterElements on what its value is multiplied by.

    The body of the op moves all channels and transposes the value twice for it. Most channels stay
    at their places, though, and the constants say which do not. Sums have their terms in the same
    order, and so the same bits.
    """

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Rewrite `model` in place; return the reassemblies left alone, with the reason."""
        declined: dict[str, str] = {}
        for node in reassemblies(model):
            factors = channel_factors(node)
            if factors is None:
                declined[str(node.name)] = "a channel has several factors"
                continue
            _lower(model.graph, node, factors)
        return declined


def _lower(graph: ir.Graph, node: ir.Node, factors: Array) -> None:
    x, result = node.inputs[0], node.outputs[0]
    assert x is not None, "the op has a value"
    gather, _, place, channel, _ = map_of(node)
    writer = NodeWriter(graph, str(node.name), node)
    float_type = result.dtype or ir.DataType.FLOAT
    narrow = float_type != ir.DataType.FLOAT
    value = writer.add("Cast", [x], {"to": ir.DataType.FLOAT}) if narrow else x
    if (factors != 1).any():
        value = writer.add("Mul", [value, constant(graph, f"{node.name}/factors", factors)])
    tokens = writer.add("Shape", [value], {"start": 0, "end": -1})
    moved = np.flatnonzero(gather != np.arange(len(gather)))
    places = _scattered(writer, value, value, tokens, gather[moved], moved, "none")
    value = _scattered(writer, places, value, tokens, channel, place, "add")
    if narrow:
        value = writer.add("Cast", [value], {"to": float_type})
    elif value is x:  # the identity
        value = writer.add("Identity", [x])
    take_over(result, value)
    remove_unused(graph, [node])


def _scattered(
    writer: NodeWriter,
    into: ir.Value,
    value: ir.Value,
    tokens: ir.Value,
    channels: Array,
    places: Array,
    reduction: str,
) -> ir.Value:
    """Return `into` with `channels` of `value` at `places`: instead of what is there, or added."""
    if not len(channels):
        return into
    name = "moved" if reduction == "none" else "added"
    count = writer.constant(f"{name}_count", [len(channels)])
    shape = writer.add("Concat", [tokens, count], {"axis": 0})
    # GatherElements takes a tenth of the time that Gather does for single elements.
    read, written = (
        writer.add("Expand", [writer.constant(f"{name}_{part}", numbers.tolist()), shape])
        for part, numbers in (("channels", channels), ("places", places))
    )
    updates = writer.add("GatherElements", [value, read], {"axis": -1})
    attributes: dict[str, int | str] = {"axis": -1, "reduction": reduction}
    return writer.add("ScatterElements", [into, written, updates], attributes)
