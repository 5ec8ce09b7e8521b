"""Measure how far an approximation is from what it stands for."""

from __future__ import annotations

import math

import numpy as np

from castline.compiler.quant.arrays import Array

_AT_ONCE = 1 << 20  # values that are worked out in float64 together: a few MB


def sqnr_db(reference: Array, approximation: Array) -> float:
    """Return the signal-to-quantization-noise ratio in dB, for arrays of one shape.

    10 log10(sum reference^2 / sum (reference - approximation)^2): 20 dB is a tenth of the signal, 6
    dB are a bit. Infinite where both are equal, minus infinity where zeros are approximated by
    something else, NaN where either holds one. Sums are float64.
    """
    assert reference.shape == approximation.shape, f"{reference.shape} and {approximation.shape}"
    signal = noise = 0.0
    left, right = reference.reshape(-1), approximation.reshape(-1)
    for start in range(0, left.size, _AT_ONCE):
        part = left[start : start + _AT_ONCE].astype(np.float64)
        signal += float(part @ part)
        part -= right[start : start + _AT_ONCE]
        noise += float(part @ part)
    return decibels(signal, noise)


def decibels(signal: float, noise: float) -> float:
    """Return 10 log10(signal / noise), for sums of squares that were gathered elsewhere."""
    if noise == 0:
        return math.inf
    return -math.inf if signal == 0 else 10 * math.log10(signal / noise)
