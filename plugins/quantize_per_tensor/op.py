"""Quantize all values by one range: castline.QuantizePerTensor, with and without zero-points."""

from __future__ import annotations

from castline.plugins.op import PluginOp
from castline.plugins.run_time_grid import (
    PER_TENSOR,
    Array,
    body,
    quantize_asymmetric,
    quantize_symmetric,
)

QUANTIZE_PER_TENSOR = PluginOp(
    name="QuantizePerTensor",
    inputs=("x",),
    outputs=("codes", "scale"),
    attributes=("bits",),
    body=body(PER_TENSOR, symmetric=True),
)

QUANTIZE_PER_TENSOR_ASYMMETRIC = PluginOp(
    name="QuantizePerTensorAsymmetric",
    inputs=("x",),
    outputs=("codes", "scale", "zero_point"),
    attributes=("bits",),
    body=body(PER_TENSOR, symmetric=False),
)


def quantize_per_tensor(x: Array, bits: int) -> tuple[Array, Array]:
    """Return codes int8 [..., K] and scale float32 [] of `x` [..., K]."""
    return quantize_symmetric(x, bits, None)


def quantize_per_tensor_asymmetric(x: Array, bits: int) -> tuple[Array, Array, Array]:
    """Return codes int8 [..., K], scale float32 [] and zero_point int8 []."""
    return quantize_asymmetric(x, bits, None)
