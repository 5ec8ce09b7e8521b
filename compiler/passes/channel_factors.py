"""Read what a castline.ReassembleChannels multiplies channels by, and take that from it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.initializers import shared_constant
from castline.compiler.quant.arrays import Array
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS


def reassemblies(model: ir.Model) -> list[ir.Node]:
    """Return every castline.ReassembleChannels of a graph, in order; it may change meanwhile."""
    return [node for node in model.graph if REASSEMBLE_CHANNELS.is_op_of(node)]


def channel_factors(node: ir.Node) -> Array | None:
    """Return what a castline.ReassembleChannels multiplies each channel by, float32 [K].

    Channels that stand nowhere have 1; None where one has several factors.
    """
    gather, scale, _, channel, channel_scale = map_of(node)
    factors = np.ones(len(gather), np.float32)
    scale = np.broadcast_to(scale, gather.shape)
    factors[gather], factors[channel] = scale, channel_scale
    same = (factors[gather] == scale).all() and (factors[channel] == channel_scale).all()
    return factors if same else None


def map_of(node: ir.Node) -> tuple[Array, ...]:
    """Return the constants that a castline.ReassembleChannels reads beside its value."""
    tensors = [ir.convenience.get_const_tensor(v) for v in node.inputs[1:] if v is not None]
    found = tuple(tensor.numpy() for tensor in tensors if tensor is not None)
    assert len(found) == len(node.inputs) - 1, "ReassembleInputs writes constants"
    return found


def leave_ones(graph: ir.Graph, node: ir.Node) -> None:
    """Let a castline.ReassembleChannels multiply nothing: what makes its value does."""
    more = node.inputs[5]
    assert more is not None, "ReassembleInputs writes constants"
    assert more.const_value is not None, "ReassembleInputs writes constants"
    ones = shared_constant(graph, "unit_scale", np.array(1, np.float32))
    count = more.const_value.size
    for place, one in (
        (2, ones),
        (5, shared_constant(graph, f"unit_scales_{count}", np.ones(count, np.float32))),
    ):
        old = node.inputs[place]
        node.replace_input_with(place, one)
        if old is not None and not old.consumers():
            graph.initializers.pop(str(old.name))
