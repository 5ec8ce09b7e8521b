"""Quantize each token by its own range: castline.QuantizePerToken, with and without zero-points."""

from __future__ import annotations

from castline.plugins.op import PluginOp
from castline.plugins.run_time_grid import (
    PER_TOKEN,
    Array,
    body,
    quantize_asymmetric,
    quantize_symmetric,
)

QUANTIZE_PER_TOKEN = PluginOp(
    name="QuantizePerToken",
    inputs=("x",),
    outputs=("codes", "scale"),
    attributes=("bits",),
    body=body(PER_TOKEN, symmetric=True),
)

QUANTIZE_PER_TOKEN_ASYMMETRIC = PluginOp(
    name="QuantizePerTokenAsymmetric",
    inputs=("x",),
    outputs=("codes", "scale", "zero_point"),
    attributes=("bits",),
    body=body(PER_TOKEN, symmetric=False),
)


def quantize_per_token(x: Array, bits: int) -> tuple[Array, Array]:
    """Return codes int8 [..., K] and scale float32 [..., 1] of `x` [..., K]."""
    return quantize_symmetric(x, bits, -1)


def quantize_per_token_asymmetric(x: Array, bits: int) -> tuple[Array, Array, Array]:
    """Return codes int8 [..., K], scale float32 [..., 1] and zero_point int8 [..., 1]."""
    return quantize_asymmetric(x, bits, -1)
