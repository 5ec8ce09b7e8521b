"""Quantize all values by one range: castline.QuantizePerTensor, with and without zero-points."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from castline.plugins.op import PluginOp
from castline.plugins.quantize_per_token.op import SMALLEST_SCALE

Array = NDArray[Any]

QUANTIZE_PER_TENSOR = PluginOp(
    name="QuantizePerTensor",
    inputs=("x",),
    outputs=("codes", "scale"),
    attributes=("bits",),
    body="""
        bits = Constant <value_int: int = @bits> ()
        one_bit = Constant <value_int = 1> ()
        two = Constant <value_float = 2.0> ()
        one = Constant <value_float = 1.0> ()
        smallest = Constant <value_float = 1.1754943508222875e-38> ()
        code_zero = Constant <value = int8 {0}> ()

        magnitude_bits = Sub (bits, one_bit)
        codes_above_zero = Pow (two, magnitude_bits)
        largest_code = Sub (codes_above_zero, one)
        smallest_code = Neg (largest_code)

        wide = Cast <to = 1> (x)
        above = ReduceMax <keepdims = 0> (wide)
        below = ReduceMin <keepdims = 0> (wide)
        scale_above = Div (above, largest_code)
        scale_below = Div (below, smallest_code)
        scale = Max (scale_above, scale_below, smallest)
        in_steps = Div (wide, scale)
        codes = QuantizeLinear (in_steps, one, code_zero)
    """,
)

QUANTIZE_PER_TENSOR_ASYMMETRIC = PluginOp(
    name="QuantizePerTensorAsymmetric",
    inputs=("x",),
    outputs=("codes", "scale", "zero_point"),
    attributes=("bits",),
    body="""
        bits = Constant <value_int: int = @bits> ()
        one_bit = Constant <value_int = 1> ()
        two = Constant <value_float = 2.0> ()
        one = Constant <value_float = 1.0> ()
        zero = Constant <value_float = 0.0> ()
        smallest = Constant <value_float = 1.1754943508222875e-38> ()
        code_zero = Constant <value = int8 {0}> ()

        magnitude_bits = Sub (bits, one_bit)
        codes_from_zero = Pow (two, magnitude_bits)
        smallest_code = Neg (codes_from_zero)
        largest_code = Sub (codes_from_zero, one)
        steps = Sub (largest_code, smallest_code)

        wide = Cast <to = 1> (x)
        above = ReduceMax <keepdims = 0> (wide)
        below = ReduceMin <keepdims = 0> (wide)
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
    """,
)


def quantize_per_tensor(x: Array, bits: int) -> tuple[Array, Array]:
    """Return codes int8 [..., K] and scale float32 [] of `x` [..., K].

    scale = max|x| / (2^(bits - 1) - 1); codes = round(x / scale), half to even.
    """
    wide = x.astype(np.float32)
    largest = np.float32(2 ** (bits - 1) - 1)
    scale = np.maximum(np.abs(wide).max() / largest, SMALLEST_SCALE)
    return np.rint(wide / scale).astype(np.int8), scale


def quantize_per_tensor_asymmetric(x: Array, bits: int) -> tuple[Array, Array, Array]:
    """Return codes int8 [..., K], scale float32 [] and zero_point int8 [].

    With a = min(x, 0) and b = max(x, 0), and the codes of two's complement from `low` on:
    scale = (b - a) / (2^bits - 1); zero_point = round(low - a / scale), kept among the codes;
    codes = round(x / scale) + zero_point, likewise. The value 0 has a code of its own.
    """
    wide = x.astype(np.float32)
    low, high = np.float32(-(2 ** (bits - 1))), np.float32(2 ** (bits - 1) - 1)
    least = np.minimum(wide.min(), np.float32(0))
    most = np.maximum(wide.max(), np.float32(0))
    scale = np.maximum((most - least) / (high - low), SMALLEST_SCALE)
    zero_point = np.clip(np.rint(low - least / scale), low, high)
    codes = np.clip(np.rint(wide / scale) + zero_point, low, high)
    return codes.astype(np.int8), scale, zero_point.astype(np.int8)
