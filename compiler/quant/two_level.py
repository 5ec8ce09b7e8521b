"""Make the scales of a channel's groups small whole numbers times one scale: two levels."""

from __future__ import annotations

import numpy as np

from castline.compiler.quant.arrays import Array

MOST_UNITS = 16
"""Units in the largest scale of a group: with the least code, -8, they make -128, INT8's least."""

UNIT_BITS = 7
"""Significant bits of a unit, so that 1 to 16 of them have 11, as float16 does; bfloat16 has 8."""

LEAST_UNIT_EXPONENT = -24
"""2 to this is float16's least number, whose multiples it has where it has no bits left."""


def unit_of(scales: Array) -> Array:
    """Return the unit of each channel, float32 [1, ..., N]: near a 16th of its largest scale.

    `scales` [G, ..., N] are those of whole ranges, float32; a group of zeros has 0, and a channel
    of zeros the unit 1. A unit is exact in float16 and bfloat16, and so are 1 to 16 units in
    float16.

    Source: Lin et al., QServe, arXiv:2405.04532, section 4.1, progressive group quantization.
    Differs: groups are symmetric, and scales are taken from the weights, not from weights that were
    rounded to INT8 before.
    """
    wanted = scales.max(axis=0, keepdims=True) / np.float32(MOST_UNITS)
    return np.where(wanted > 0, _rounded(wanted), np.float32(1))


def in_units(scales: Array, unit: Array) -> Array:
    """Return each of `scales`, float32, as the nearest of 1 to 16 of its unit."""
    return np.clip(np.rint(scales / unit), 1, MOST_UNITS) * unit


def levels(scales: Array) -> tuple[Array, Array]:
    """Return int8 [G, N] and float32 [N] whose products are `scales` [G, N], bit for bit.

    They are what `in_units` made. Of several answers, such as 2 and 4 units or 1 and 2 of twice the
    size, it is that of the smallest unit.
    """
    scales = scales.astype(np.float32, copy=False)
    unit = np.zeros(scales.shape[1], np.float32)
    for most in range(MOST_UNITS, 0, -1):
        tried = scales.max(axis=0) / np.float32(most)
        fits = (_rounded(tried) == tried) & (in_units(scales, tried) == scales).all(axis=0)
        unit = np.where((unit == 0) & fits, tried, unit)
    assert unit.all(), "who has a scheme of two levels chose scales in units"
    return np.rint(scales / unit).astype(np.int8), unit


def _rounded(unit: Array) -> Array:
    """Round to the bits that a unit has; not to zero."""
    _, exponent = np.frexp(unit)
    least = np.maximum(exponent - UNIT_BITS, LEAST_UNIT_EXPONENT)
    rounded: Array = np.ldexp(np.maximum(np.rint(np.ldexp(unit, -least)), 1), least)
    return rounded.astype(np.float32, copy=False)
