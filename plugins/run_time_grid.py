"""Lay a grid over a range that is known at run time: what the ops that quantize have in common."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SMALLEST_SCALE = np.finfo(np.float32).tiny
"""float32's smallest normal number: zeros are divided by it and have zeros for codes."""

PER_TOKEN = "(wide, last)"
"""How ReduceMax takes the range of each token, [..., 1]."""
PER_TENSOR = "<keepdims = 0> (wide)"
"""How it takes that of all values, []."""

_SYMMETRIC = """
        bits = Constant <value_int: int = @bits> ()
        one_bit = Constant <value_int = 1> ()
        two = Constant <value_float = 2.0> ()
        one = Constant <value_float = 1.0> ()
        smallest = Constant <value_float = 1.1754943508222875e-38> ()
        last = Constant <value_ints = [-1]> ()
        code_zero = Constant <value = int8 {0}> ()

        magnitude_bits = Sub (bits, one_bit)
        codes_above_zero = Pow (two, magnitude_bits)
        largest_code = Sub (codes_above_zero, one)
        smallest_code = Neg (largest_code)

        wide = Cast <to = 1> (x)
        above = ReduceMax RANGE
        below = ReduceMin RANGE
        scale_above = Div (above, largest_code)
        scale_below = Div (below, smallest_code)
        scale = Max (scale_above, scale_below, smallest)
        in_steps = Div (wide, scale)
        codes = QuantizeLinear (in_steps, one, code_zero)
    """

_ASYMMETRIC = """
        bits = Constant <value_int: int = @bits> ()
        one_bit = Constant <value_int = 1> ()
        two = Constant <value_float = 2.0> ()
        one = Constant <value_float = 1.0> ()
        zero = Constant <value_float = 0.0> ()
        smallest = Constant <value_float = 1.1754943508222875e-38> ()
        last = Constant <value_ints = [-1]> ()

        magnitude_bits = Sub (bits, one_bit)
        codes_from_zero = Pow (two, magnitude_bits)
        smallest_code = Neg (codes_from_zero)
        largest_code = Sub (codes_from_zero, one)
        steps = Sub (largest_code, smallest_code)

        wide = Cast <to = 1> (x)
        above = ReduceMax RANGE
        below = ReduceMin RANGE
        most = Max (above, zero)
        least = Min (below, zero)
        range = Sub (most, least)
        step = Div (range, steps)
        scale = Max (step, smallest)
        least_in_steps = Div (least, scale)
        unrounded_zero = Sub (smallest_code, least_in_steps)
        rounded_zero = Round (unrounded_zero)
        float_zero = Clip (rounded_zero, smallest_code, largest_code)
        in_steps = Div (wide, scale)
        rounded = Round (in_steps)
        shifted = Add (rounded, float_zero)
        clipped = Clip (shifted, smallest_code, largest_code)
        codes = Cast <to = 3> (clipped)
        zero_point = Cast <to = 3> (float_zero)
    """


def body(reduction: str, *, symmetric: bool) -> str:
    """Return the body of an op from x to codes and scale, and zero_point if it is not symmetric.

    `reduction` is PER_TOKEN or PER_TENSOR.
    """
    return (_SYMMETRIC if symmetric else _ASYMMETRIC).replace("RANGE", reduction)


def quantize_symmetric(x: Array, bits: int, axis: Literal[-1] | None) -> tuple[Array, Array]:
    """Return codes int8 and scale float32 of `x`, by ranges along `axis` or by one (None).

    scale = max|x| / (2^(bits - 1) - 1); codes = round(x / scale), half to even.
    """
    wide = x.astype(np.float32)
    largest = np.float32(2 ** (bits - 1) - 1)
    peak = np.abs(wide).max(axis, keepdims=axis is not None)
    scale = np.maximum(peak / largest, SMALLEST_SCALE)
    return np.rint(wide / scale).astype(np.int8), scale


def quantize_asymmetric(
    x: Array, bits: int, axis: Literal[-1] | None
) -> tuple[Array, Array, Array]:
    """Return codes int8, scale float32 and zero_point int8, by ranges along `axis` or by one.

    With a = min(x, 0) and b = max(x, 0), and the codes of two's complement from `low` on:
    scale = (b - a) / (2^bits - 1); zero_point = round(low - a / scale), kept among the codes;
    codes = round(x / scale) + zero_point, likewise. The value 0 has a code of its own.
    """
    wide = x.astype(np.float32)
    keep = axis is not None
    low, high = np.float32(-(2 ** (bits - 1))), np.float32(2 ** (bits - 1) - 1)
    least = np.minimum(wide.min(axis, keepdims=keep), np.float32(0))
    most = np.maximum(wide.max(axis, keepdims=keep), np.float32(0))
    scale = np.maximum((most - least) / (high - low), SMALLEST_SCALE)
    zero_point = np.clip(np.rint(low - least / scale), low, high)
    codes = np.clip(np.rint(wide / scale) + zero_point, low, high)
    return codes.astype(np.int8), scale, zero_point.astype(np.int8)
