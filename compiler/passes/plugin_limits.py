"""Say which linears the kernels of plugins do not multiply, by their sizes and types."""

from __future__ import annotations

import onnx_ir as ir

FLOAT_TYPES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
K_MULTIPLE = 16  # activations are loaded 16 bytes at once, from the first of every token
LEAST_GROUP = 32  # a group ends where a matrix instruction ends
MOST_QUANTIZED = 32768  # channels of a token that one block of threads holds
MOST_REASSEMBLED = 49152  # channels, and those added to them, in the shared memory of every GPU
_RANKS = (2, 3)


def misfit(k: int, group: int, float_type: ir.DataType | None) -> str | None:
    """Return why plugins do not multiply by weights [K, N] in groups along K; None if they do.

    `float_type` is that of the product; `group` is K where a channel has one scale.
    """
    if float_type not in FLOAT_TYPES:
        name = "an unknown type" if float_type is None else float_type.name.lower()
        return f"it computes in {name}, and plugins in float16 and bfloat16; use --dtype float16"
    if k % K_MULTIPLE:
        return f"its input dimension {k} is no multiple of {K_MULTIPLE}"
    power_of_two = group & (group - 1) == 0
    if group < k and (group < LEAST_GROUP or not power_of_two):
        return (
            f"it has groups of {group}, and plugins take 32, 64, 128 and so on, or a whole channel"
        )
    return None


def width_misfit(k: int) -> str | None:
    """Return why plugins do not quantize tokens of `k` channels at run time; None if they do."""
    if k <= MOST_QUANTIZED:
        return None
    return f"tokens of {k} channels are quantized at run time, and plugins take {MOST_QUANTIZED}"


def reassembly_misfit(k: int, added: int) -> str | None:
    """Return why plugins do not add so many channels to `k` others; None if they do."""
    if added <= k and k + added <= MOST_REASSEMBLED:
        return None
    return (
        f"{added} channels are added to {k}, and plugins take no more than these, and "
        f"{MOST_REASSEMBLED} together; use a smaller reassembly.ratio"
    )


def rank_misfit(x: ir.Value) -> str | None:
    """Return why plugins do not read `x`; None if they do, or its rank is not known."""
    if x.shape is None or len(x.shape) in _RANKS:
        return None
    return f"what it reads has {len(x.shape)} axes, and plugins read {_RANKS[0]} or {_RANKS[1]}"
