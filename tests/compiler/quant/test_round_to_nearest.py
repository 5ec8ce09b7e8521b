"""Codes stand for weights within half a scale, whatever the weights."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from castline.compiler.quant.round_to_nearest import QuantizedMatrix, dequantize, quantize
from castline.compiler.quant.scheme import WeightScheme

SCHEMES = [
    WeightScheme(bits, group, symmetric)
    for bits, group, symmetric in itertools.product(
        (2, 3, 4, 6, 8), (16, 32, 128, "per-channel", "per-tensor"), (True, False)
    )
]
SCALE_TYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
LARGEST = 2.0**126  # half a step beyond the largest float32 there is no float32
FLOAT32_ROUNDING = 1e-5  # of the arithmetic itself: 255 codes of 2**-24 each


def steps_of(matrix: QuantizedMatrix) -> np.ndarray:
    """Return the scale of every weight, [K, N], or of one for all [K, 1]."""
    k = matrix.codes.shape[0]
    groups = matrix.scales.shape[0]
    return np.repeat(matrix.scales.astype(np.float64), k // groups, axis=0)


def assert_within_half_a_step(weights: np.ndarray, matrix: QuantizedMatrix) -> None:
    steps = steps_of(matrix)
    steps = np.broadcast_to(steps, weights.shape)
    apart = np.abs(dequantize(matrix).astype(np.float64) - weights.astype(np.float64))
    assert np.all(np.isfinite(steps))
    assert np.all(steps > 0)
    excess = apart - steps * (0.5 + FLOAT32_ROUNDING)
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    assert excess[worst] <= 0, (
        f"{worst}: {weights[worst]} is {apart[worst] / steps[worst]} steps off"
    )


@pytest.mark.parametrize("scale_type", SCALE_TYPES)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_every_weight_is_within_half_a_scale(scheme: WeightScheme, scale_type: type) -> None:
    weights = np.random.default_rng(0).standard_normal((384, 5)).astype(np.float32)
    matrix = quantize(weights, scheme, scale_type)
    assert matrix.group == (scheme.group_size if isinstance(scheme.group_size, int) else 384)
    assert matrix.scales.shape[1] == (1 if scheme.group_size == "per-tensor" else 5)
    assert matrix.scales.dtype == scale_type
    assert (matrix.zero_points is None) == scheme.symmetric
    assert matrix.codes.min() >= scheme.code_range[0]
    assert matrix.codes.max() <= scheme.code_range[1]
    assert_within_half_a_step(weights, matrix)


@settings(max_examples=60, deadline=None)
@given(
    weights=arrays(
        np.float32,
        st.tuples(st.sampled_from([16, 32, 48, 100]), st.integers(1, 3)),
        elements=st.floats(-LARGEST, LARGEST, width=32),
    ),
    scheme=st.sampled_from(SCHEMES),
)
def test_every_float32_is_within_half_a_scale(weights: np.ndarray, scheme: WeightScheme) -> None:
    assert_within_half_a_step(weights, quantize(weights, scheme))


@settings(max_examples=60, deadline=None)
@given(
    weights=arrays(
        np.float16,
        st.tuples(st.sampled_from([16, 32, 100]), st.integers(1, 3)),
        elements=st.floats(width=16, allow_nan=False, allow_infinity=False),
    ),
    scheme=st.sampled_from(SCHEMES),
)
def test_every_float16_is_within_half_a_float16_scale(
    weights: np.ndarray, scheme: WeightScheme
) -> None:
    assert_within_half_a_step(weights, quantize(weights, scheme, np.float16))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scale_type", SCALE_TYPES)
def test_a_symmetric_scale_is_the_least_that_reaches_both_ends(bits: int, scale_type: type) -> None:
    most = 2 ** (bits - 1) - 1
    weights = np.zeros((32, 3), np.float32)
    weights[3] = [most, 1.0, most / 2]
    weights[9] = [-1.0, -(most + 1), -(most + 1) / 2]
    matrix = quantize(weights, WeightScheme(bits, 32, True), scale_type)
    np.testing.assert_array_equal(matrix.scales.astype(np.float32), [[1, 1, 0.5]])
    np.testing.assert_array_equal(matrix.codes[3], [most, 1, most])
    np.testing.assert_array_equal(matrix.codes[9], [-1, -most - 1, -most - 1])
    np.testing.assert_array_equal(dequantize(matrix), weights)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_grid_with_zero_points_reaches_both_ends_and_holds_zero(bits: int) -> None:
    most = 2**bits - 1
    weights = np.zeros((32, 1), np.float32)
    weights[0], weights[1] = -3, most - 3
    matrix = quantize(weights, WeightScheme(bits, 32, False))
    assert matrix.zero_points is not None
    assert matrix.scales.item() == 1
    assert matrix.zero_points.item() == 3
    assert matrix.codes[:3, 0].tolist() == [0, most, 3]
    np.testing.assert_array_equal(dequantize(matrix), weights)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("scale_type", SCALE_TYPES)
def test_a_group_of_zeros_stays_zero(scheme: WeightScheme, scale_type: type) -> None:
    weights = np.zeros((256, 2), np.float32)
    if scheme.group_size != "per-tensor":
        weights[:128, 1] = 0.5  # a neighbour that is not zero
    matrix = quantize(weights, scheme, scale_type)
    assert matrix.scales[0, 0] == 1
    np.testing.assert_array_equal(dequantize(matrix)[:, 0], weights[:, 0])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_group_of_one_sign_keeps_zero_on_its_grid(bits: int, sign: int) -> None:
    weights = sign * np.linspace(5, 6, 32, dtype=np.float32)[:, None]
    matrix = quantize(weights, WeightScheme(bits, 32, False))
    assert matrix.zero_points is not None
    assert matrix.zero_points.item() == (0 if sign > 0 else 2**bits - 1)
    assert matrix.scales.item() == pytest.approx(6 / (2**bits - 1))
    assert_within_half_a_step(weights, matrix)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("scale_type", SCALE_TYPES)
@pytest.mark.parametrize("size", [1e-45, 1e-40, 6e-8, 3e-6, 1e-4])
def test_scales_of_tiny_weights_are_neither_zero_nor_infinite(
    scheme: WeightScheme, scale_type: type, size: float
) -> None:
    weights = (size * np.random.default_rng(0).uniform(-1, 1, (256, 2))).astype(np.float32)
    assert_within_half_a_step(weights, quantize(weights, scheme, scale_type))


def test_small_float16_scales_keep_their_precision_below_the_smallest_normal() -> None:
    weights = np.linspace(-2e-3, 2e-3, 128, dtype=np.float32)[:, None]
    matrix = quantize(weights, WeightScheme(8, "per-channel", True), np.float16)
    exact = 2e-3 / 127
    assert exact < np.finfo(np.float16).tiny
    assert exact <= float(matrix.scales.item()) <= exact + 2.0**-24


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_largest_numbers_do_not_overflow(scheme: WeightScheme) -> None:
    weights = np.tile(np.array([[LARGEST], [-LARGEST]], np.float32), (64, 1))
    assert_within_half_a_step(weights, quantize(weights, scheme))


@pytest.mark.parametrize("shape", [(16, 1), (48, 7), (100, 3), (17, 2), (1, 1)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_odd_shapes(shape: tuple[int, int], symmetric: bool) -> None:
    weights = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    scheme = WeightScheme(4, 128, symmetric)
    matrix = quantize(weights, scheme)
    group = scheme.group_for(shape[0])
    groups = shape[0] // group if isinstance(group, int) else 1
    assert matrix.codes.shape == shape
    assert matrix.scales.shape == (groups, shape[1])
    assert_within_half_a_step(weights, matrix)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_what_is_on_the_grid_comes_back_as_it_was(scheme: WeightScheme) -> None:
    weights = np.random.default_rng(0).standard_normal((128, 3)).astype(np.float32)
    once = dequantize(quantize(weights, scheme))
    twice = dequantize(quantize(once, scheme))
    np.testing.assert_allclose(twice, once, rtol=1e-5, atol=1e-6)


def test_bfloat16_weights_are_computed_in_float32() -> None:
    weights = np.random.default_rng(0).standard_normal((64, 2)).astype(ml_dtypes.bfloat16)
    matrix = quantize(weights, WeightScheme(8, 64, True), ml_dtypes.bfloat16)
    assert_within_half_a_step(weights.astype(np.float32), matrix)
