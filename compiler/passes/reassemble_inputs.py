"""Reassemble what linears read: take channels apart, put others together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.initializers import constant
from castline.compiler.passes.linear_inputs import change_inputs
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
        return change_inputs(
            model, self.linears, _content, "reassembled_input", partial(_written, model)
        )


def _content(channels: ChannelMap) -> tuple[bytes, ...]:
    """Return what two maps have in common if they do the same."""
    return tuple(getattr(channels, part).astype(kind).tobytes() for part, kind in _TYPES.items())


def _written(
    model: ir.Model,
    writer: NodeWriter,
    x: ir.Value,
    linear: str,
    _float_type: ir.DataType,
    channels: ChannelMap,
) -> ir.Value:
    REASSEMBLE_CHANNELS.define_in(model)
    parts = [
        constant(model.graph, f"{linear}.input_{part}", getattr(channels, part).astype(kind))
        for part, kind in _TYPES.items()
    ]
    return writer.add(REASSEMBLE_CHANNELS.name, [x, *parts], domain=DOMAIN)
