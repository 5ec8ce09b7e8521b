"""Quantize activations by a scale per token, or by one for all: the reference of what graphs do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from castline.compiler.quant.arrays import Array
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters
from castline.compiler.quant.weight_grid import LEAST_SCALE


@dataclass(frozen=True, eq=False)
class QuantizedActivations:
    """Codes with what turns them into values: (code - zero_point) * scale."""

    codes: Array
    """int8 [..., K]."""
    scales: Array
    """float32 [..., 1] per token, [] per tensor; above zero."""
    zero_points: Array
    """int8 in the shape of the scales; 0 on a symmetric grid."""


def quantize_activations(
    x: Array, scheme: ActivationScheme, parameters: QuantParameters | None = None
) -> QuantizedActivations:
    """Return the codes of `x` [..., K], worked out in float32 and rounded half to even.

    `parameters` are those of a static scheme, None for a dynamic one. What lies beyond a static
    range gets the last code.
    """
    assert (parameters is None) == scheme.dynamic, "static schemes have parameters, others do not"
    values = x.astype(np.float32, copy=False)
    if parameters is None:
        axis = -1 if scheme.granularity == "per-token" else None
        keep = axis is not None
        low, high = values.min(axis=axis, keepdims=keep), values.max(axis=axis, keepdims=keep)
        scales, zero_points = activation_grid(low, high, scheme)
    else:
        scales = np.asarray(parameters.scale, np.float32)
        zero_points = np.asarray(parameters.zero_point, np.float32)
    codes = np.clip(np.rint(values / scales) + zero_points, *scheme.code_range)
    return QuantizedActivations(codes.astype(np.int8), scales, zero_points.astype(np.int8))


def dequantize_activations(quantized: QuantizedActivations) -> Array:
    """Return the values float32 [..., K] that the codes stand for."""
    codes = quantized.codes.astype(np.float32)
    codes -= quantized.zero_points
    codes *= quantized.scales
    return codes


def activation_grid(low: Array, high: Array, scheme: ActivationScheme) -> tuple[Array, Array]:
    """Return scales and zero-points, both float32, of grids from `low` to `high` that hold 0.

    Symmetric: max(|low|, |high|) / (2^(b-1) - 1), as SmoothQuant has it; with zero-points:
    (high - low) / (2^b - 1), as `DynamicQuantizeLinear` of ONNX has it, but in two's complement.
    What is all zeros gets the scale 1.
    """
    least, most = scheme.code_range
    low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    if scheme.symmetric:
        scales = _above_zero(np.maximum(high, -low) / np.float32(most))
        return scales, np.zeros_like(scales)
    scales = _above_zero((high - low) / np.float32(most - least))
    return scales, np.clip(np.rint(np.float32(least) - low / scales), least, most)


def _above_zero(scales: Array) -> Array:
    return np.where(scales > 0, np.maximum(scales, LEAST_SCALE), np.float32(1))
