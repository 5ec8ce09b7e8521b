"""plugins/quantize_per_token/kernel.cu on the emulator: bit for bit what the op says."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from castline.errors import PluginError
from castline.plugins.array_kernels import ArrayKernels
from castline.plugins.run_time_grid import quantize_asymmetric, quantize_symmetric

TYPES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
# One value; less than a vector; whole warps; a vector for each thread; one more; three and eight
# vectors a thread, with and without a last one that is not full.
SHAPES = [(3, 1), (2, 7), (4, 256), (2, 4096), (2, 4104), (1, 8193), (1, 12288), (1, 32767)]


def tokens(m: int, k: int, dtype: np.dtype[Any]) -> np.ndarray:
    random = np.random.default_rng(k)
    return (random.standard_normal((m, k)) * random.choice([1, 60], k)).astype(dtype)


def assert_is_what_the_op_says(emulated: ArrayKernels, x: np.ndarray, bits: int) -> None:
    codes, scale, zero_point = emulated.quantize(x, bits, symmetric=True)
    expected = quantize_symmetric(x, bits, -1)
    assert zero_point is None
    np.testing.assert_array_equal(scale, expected[1])
    np.testing.assert_array_equal(codes, expected[0])
    codes, scale, zero_point = emulated.quantize(x, bits, symmetric=False)
    expected_codes, expected_scale, expected_zero_point = quantize_asymmetric(x, bits, -1)
    np.testing.assert_array_equal(scale, expected_scale)
    np.testing.assert_array_equal(zero_point, expected_zero_point)
    np.testing.assert_array_equal(codes, expected_codes)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("m", "k"), SHAPES)
@pytest.mark.usefixtures("order")
def test_every_token_has_its_codes_scale_and_zero_point(
    emulated: ArrayKernels, m: int, k: int, dtype: np.dtype[Any]
) -> None:
    assert_is_what_the_op_says(emulated, tokens(m, k, dtype), 8)


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_have_any_number_of_bits(emulated: ArrayKernels, bits: int) -> None:
    assert_is_what_the_op_says(emulated, tokens(3, 40, TYPES[0]), bits)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_extremes_of_values_are_kept(emulated: ArrayKernels, dtype: np.dtype[Any]) -> None:
    limits = ml_dtypes.finfo(dtype)
    largest, smallest = float(limits.max), float(limits.smallest_subnormal)
    x = np.zeros((7, 16), np.float64)
    x[1] = -0.0
    x[2, :2] = largest, smallest
    x[3, :2] = -largest, 1
    x[4, 3] = smallest
    x[5] = np.arange(1, 17)
    x[6] = -np.arange(1, 17)
    if dtype == np.float16:  # what is larger has no range in float32
        x[3, 1] = largest
    assert_is_what_the_op_says(emulated, x.astype(dtype), 8)
    assert_is_what_the_op_says(emulated, x.astype(dtype), 4)


def test_the_half_between_two_codes_goes_to_the_even_one(emulated: ArrayKernels) -> None:
    x = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]], np.float16)
    codes, scale, _ = emulated.quantize(x, 8, symmetric=True)
    assert scale[0, 0] == 1
    assert codes[0].tolist() == [127, 0, 2, 2, 0, -2, -2, 126]


def test_rows_of_any_alignment_are_read_and_written(emulated: ArrayKernels) -> None:
    x = np.empty(2 * 16 + 8, np.float16)
    for start in range(8):
        shifted = x[start : start + 32].reshape(2, 16)
        shifted[:] = tokens(2, 16, TYPES[0])
        assert_is_what_the_op_says(emulated, shifted, 8)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("symmetric", [True, False])
def test_what_is_no_number_spoils_its_own_token_alone(
    emulated: ArrayKernels, bad: float, symmetric: bool
) -> None:
    x = tokens(3, 24, TYPES[0])
    expected = emulated.quantize(x, 8, symmetric=symmetric)
    x[1, 5] = bad
    codes, scale, _ = emulated.quantize(x, 8, symmetric=symmetric)
    np.testing.assert_equal(scale[1, 0], np.float32(abs(bad)))
    np.testing.assert_array_equal(codes[[0, 2]], expected[0][[0, 2]])


def test_no_tokens_have_no_codes(emulated: ArrayKernels) -> None:
    codes, scale, _ = emulated.quantize(np.zeros((0, 16), np.float16), 8, symmetric=True)
    assert codes.shape == (0, 16)
    assert scale.shape == (0, 1)


@pytest.mark.parametrize(
    ("k", "bits", "reason"),
    [
        (16, 1, "QuantizePerToken: codes of 1 bits; they have 2 to 8"),
        (16, 9, "QuantizePerToken: codes of 9 bits; they have 2 to 8"),
        (32769, 8, "k = 32769; m must be 0 or more, and k 1 to 32768"),
    ],
)
def test_what_cannot_be_computed_is_refused(
    emulated: ArrayKernels, k: int, bits: int, reason: str
) -> None:
    with pytest.raises(PluginError, match=reason):
        emulated.quantize(np.zeros((1, k), np.float16), bits, symmetric=True)
