"""Reassemble what linears read: take channels apart, put others together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.linears import linears
from castline.compiler.graph.stacked import stacked_linears
from castline.compiler.passes.initializers import constant
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.quant.channel_map import ChannelMap
from castline.plugins.op import DOMAIN
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS

_TYPES = {  # of what castline.ReassembleChannels reads beside the value
    "gather": np.int64,
    "scale": np.float32,
    "place": np.int64,
    "channel": np.int64,
    "channel_scale": np.float32,
}


@dataclass(frozen=True)
class ReassembleInputs:
    """What several linears read, reassembled alike, is one castline.ReassembleChannels.

    Others that read it, such as routers, read the value itself. The pass leaves the weights as they
    are: whoever asks for it gives those of `ChannelMap.of_weights`, or their codes.
    """

    linears: Mapping[str, ChannelMap]
    """Name of the weight in the checkpoint -> how the channels that it multiplies are placed."""

    def __call__(self, model: ir.Model) -> tuple[str, ...]:
        """Rewrite `model`, whose weights are in float, in place.

        Returns the names for which the graph has no linear.
        """
        written: dict[tuple[ir.Value, tuple[bytes, ...]], ir.Value] = {}
        single = ((linear.name, linear.node) for linear in linears(model))
        stacks = ((stack.name, stack.node) for stack in stacked_linears(model))
        found = [(name, node) for name, node in (*single, *stacks) if name in self.linears]
        for name, node in found:
            channels, x = self.linears[name], node.inputs[0]
            assert x is not None, "MatMul has two inputs"
            key = (x, _content(channels))
            if key not in written:
                written[key] = _written(model, node, x, name, channels)
            node.replace_input_with(0, written[key])
        return tuple(name for name in self.linears if name not in dict(found))


def _content(channels: ChannelMap) -> tuple[bytes, ...]:
    """Return what two maps have in common if they do the same."""
    return tuple(getattr(channels, part).astype(kind).tobytes() for part, kind in _TYPES.items())


def _written(
    model: ir.Model, node: ir.Node, x: ir.Value, name: str, channels: ChannelMap
) -> ir.Value:
    weight = node.inputs[1]
    assert weight is not None, "MatMul has two inputs"
    REASSEMBLE_CHANNELS.define_in(model)
    linear = name.removesuffix(".weight")
    parts = [
        constant(model.graph, f"{linear}.input_{part}", getattr(channels, part).astype(kind))
        for part, kind in _TYPES.items()
    ]
    # Below the node's own name: products of experts stand beside one another under one path.
    writer = NodeWriter(model.graph, f"{node.name}/reassembled_input", node)
    value = writer.add(REASSEMBLE_CHANNELS.name, [x, *parts], domain=DOMAIN)
    value.shape, value.type = x.shape, ir.TensorType(weight.dtype or ir.DataType.FLOAT)
    return value
