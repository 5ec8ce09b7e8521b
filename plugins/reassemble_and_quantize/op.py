"""Reassemble channels and quantize each token at once: castline.ReassembleAndQuantize."""

from __future__ import annotations

from castline.plugins.op import DOMAIN, PluginOp
from castline.plugins.quantize_per_token.op import (
    QUANTIZE_PER_TOKEN,
    QUANTIZE_PER_TOKEN_ASYMMETRIC,
    quantize_per_token,
    quantize_per_token_asymmetric,
)
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS, reassemble_channels
from castline.plugins.run_time_grid import Array

# The scales of channels are not called "scale", which is an output's name.
_INPUTS = ("x", "gather", "gather_scale", "place", "channel", "channel_scale")


def _then(quantize: PluginOp, name: str) -> PluginOp:
    """Return the op that hands what ReassembleChannels puts out to `quantize`."""
    inputs, outputs = ", ".join(_INPUTS), ", ".join(quantize.outputs)
    return PluginOp(
        name,
        _INPUTS,
        quantize.outputs,
        quantize.attributes,
        body=f"""
        reassembled = {DOMAIN}.{REASSEMBLE_CHANNELS.name} ({inputs})
        {outputs} = {DOMAIN}.{quantize.name} <bits: int = @bits> (reassembled)
    """,
        uses=(REASSEMBLE_CHANNELS, quantize),
    )


REASSEMBLE_AND_QUANTIZE = _then(QUANTIZE_PER_TOKEN, "ReassembleAndQuantize")
REASSEMBLE_AND_QUANTIZE_ASYMMETRIC = _then(
    QUANTIZE_PER_TOKEN_ASYMMETRIC, "ReassembleAndQuantizeAsymmetric"
)


def reassemble_and_quantize(x: Array, *channels: Array, bits: int) -> tuple[Array, Array]:
    """Return codes int8 [..., K] and scale float32 [..., 1] of the reassembled `x` [..., K].

    `channels` are the inputs of `reassemble_channels` after x. What it returns is rounded to the
    type of x before it is quantized.
    """
    return quantize_per_token(reassemble_channels(x, *channels), bits)


def reassemble_and_quantize_asymmetric(
    x: Array, *channels: Array, bits: int
) -> tuple[Array, Array, Array]:
    """Return codes, scale and zero_point int8 [..., 1] likewise."""
    return quantize_per_token_asymmetric(reassemble_channels(x, *channels), bits)
