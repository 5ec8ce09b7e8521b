"""Take channels apart and put others together: castline.ReassembleChannels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from castline.plugins.op import PluginOp

Array = NDArray[Any]

# Channels are gathered as rows of the transposed value: ONNX Runtime copies a row at once, and the
# channels of a token one by one, which takes seven times as long where there are many tokens.
REASSEMBLE_CHANNELS = PluginOp(
    name="ReassembleChannels",
    inputs=("x", "gather", "scale", "place", "channel", "channel_scale"),
    outputs=("y",),
    attributes=(),
    body="""
        one = Constant <value_ints = [1]> ()
        rest = Constant <value_ints = [-1]> ()
        shape = Shape (x)
        channels = Shape <start = -1> (x)
        by_token = Concat <axis = 0> (rest, channels)
        column = Concat <axis = 0> (rest, one)

        wide = Cast <to = 1> (x)
        tokens = Reshape (wide, by_token)
        rows = Transpose <perm = [1, 0]> (tokens)
        first = Gather <axis = 0> (rows, gather)
        scale_column = Reshape (scale, column)
        placed = Mul (first, scale_column)

        more = Gather <axis = 0> (rows, channel)
        channel_scale_column = Reshape (channel_scale, column)
        scaled = Mul (more, channel_scale_column)
        place_number = Cast <to = 7> (place)
        place_column = Reshape (place_number, column)
        added = ScatterND <reduction = "add"> (placed, place_column, scaled)

        back = Transpose <perm = [1, 0]> (added)
        result = Reshape <allowzero = 1> (back, shape)
        y = CastLike (result, x)
    """,
)


def reassemble_channels(
    x: Array, gather: Array, scale: Array, place: Array, channel: Array, channel_scale: Array
) -> Array:
    """Return y [..., K] of `x` [..., K], in its type: y_k = x_gather[k] * scale[k], and more.

    For each p in order, y_place[p] += x_channel[p] * channel_scale[p]. `gather` is int64 or int32
    [K], `place` and `channel` are of its type, [P]; `scale` is float32 [K], or [] where all have
    one, and `channel_scale` float32 [P]. Computed in float32.
    """
    wide = x.astype(np.float32)
    y: Array = wide[..., gather] * scale
    for to, of, factor in zip(place, channel, channel_scale, strict=True):
        y[..., to] += wide[..., of] * factor
    return y.astype(x.dtype)
