"""Activations have codes within half a scale, whatever they are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from castline.compiler.quant.activations import (
    activation_grid,
    dequantize_activations,
    quantize_activations,
)
from castline.compiler.quant.scheme import (
    ActivationGranularity,
    ActivationScheme,
    QuantParameters,
)
from castline.plugins.run_time_grid import quantize_asymmetric

DYNAMIC = [
    ActivationScheme(bits, granularity, dynamic=True, symmetric=symmetric)
    for bits, granularity, symmetric in itertools.product(
        (2, 4, 6, 8), ("per-token", "per-tensor"), (True, False)
    )
]


def scheme_of(
    granularity: ActivationGranularity, bits: int = 8, **fields: bool
) -> ActivationScheme:
    return ActivationScheme(bits, granularity, **{"dynamic": True, **fields})


def test_a_symmetric_token_has_its_peak_by_the_largest_code_as_scale() -> None:
    x = np.array([[254.0, -127, 1, 3], [0.5, -1.27, 0, 0.015]], np.float32)
    quantized = quantize_activations(x, scheme_of("per-token"))
    np.testing.assert_allclose(quantized.scales, [[2], [0.01]])
    # 63.5, 0.5 and 1.5 steps: halves go to the even code.
    assert quantized.codes.tolist() == [
        [127, -64, 0, 2],
        [50, -127, 0, 1 if 0.015 < 1.5 * 0.01 else 2],
    ]
    assert not quantized.zero_points.any()


def test_one_scale_serves_all_tokens_per_tensor() -> None:
    x = np.array([[6.0, 1], [-7, 2]], np.float32)
    quantized = quantize_activations(x, scheme_of("per-tensor", bits=4))
    assert quantized.scales.shape == ()
    assert quantized.scales == 1
    assert quantized.codes.tolist() == [[6, 1], [-7, 2]]


def test_zero_points_reach_both_ends_and_hold_zero() -> None:
    x = np.array([[-55.0, 200, 0], [100, 510, 2], [-510, -10, 0]], np.float32)
    quantized = quantize_activations(x, scheme_of("per-token", symmetric=False))
    assert quantized.scales[:, 0].tolist() == [1, 2, 2]
    assert quantized.zero_points[:, 0].tolist() == [-73, -128, 127]
    assert quantized.codes.tolist() == [[-128, 127, -73], [-78, 127, -127], [-128, 122, 127]]


@settings(max_examples=80, deadline=None)
@given(
    x=arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 9)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    ),
    scheme=st.sampled_from(DYNAMIC),
)
def test_every_value_is_within_half_a_scale(x: np.ndarray, scheme: ActivationScheme) -> None:
    quantized = quantize_activations(x, scheme)
    assert quantized.scales.shape == ((len(x), 1) if scheme.granularity == "per-token" else ())
    assert quantized.codes.min() >= scheme.code_range[0]
    assert quantized.codes.max() <= scheme.code_range[1]
    apart = np.abs(dequantize_activations(quantized) - x.astype(np.float64))
    # With zero-points, half a step more where the zero-point was rounded the other way.
    steps = quantized.scales * (0.501 if scheme.symmetric else 1.001)
    assert np.all(apart <= steps)


@pytest.mark.parametrize("scheme", DYNAMIC, ids=str)
def test_a_token_of_zeros_has_the_scale_one(scheme: ActivationScheme) -> None:
    quantized = quantize_activations(np.zeros((2, 3), np.float32), scheme)
    assert np.all(quantized.scales == 1)
    assert not dequantize_activations(quantized).any()


@pytest.mark.parametrize("scheme", DYNAMIC, ids=str)
@pytest.mark.parametrize("size", [1e-45, 1e-38])
def test_tiny_values_have_a_scale_that_may_be_divided_by(
    scheme: ActivationScheme, size: float
) -> None:
    quantized = quantize_activations(np.array([[size, -size]], np.float32), scheme)
    assert np.all(quantized.scales >= 2.0**-126)


def test_a_static_range_clips_what_lies_beyond() -> None:
    x = np.array([[0.5, 1.5, 300, -300]], np.float32)
    symmetric = quantize_activations(
        x, scheme_of("per-tensor", dynamic=False), QuantParameters(1.0, 0)
    )
    assert symmetric.codes.tolist() == [[0, 2, 127, -128]]
    lifted = quantize_activations(
        x, scheme_of("per-tensor", dynamic=False, symmetric=False), QuantParameters(2.0, -100)
    )
    assert lifted.codes.tolist() == [[-100, -99, 50, -128]]
    assert dequantize_activations(lifted).tolist() == [[0, 2, 300, -56]]


def test_static_schemes_alone_have_parameters() -> None:
    x = np.ones((1, 2), np.float32)
    with pytest.raises(AssertionError):
        quantize_activations(x, scheme_of("per-tensor", dynamic=False))
    with pytest.raises(AssertionError):
        quantize_activations(x, scheme_of("per-token"), QuantParameters(1.0, 0))


def test_float16_is_computed_in_float32_and_stays_as_it_is() -> None:
    x = np.array([[60000, -60000, 1]], np.float16)
    before = x.copy()
    quantized = quantize_activations(x, scheme_of("per-token", symmetric=False))
    assert quantized.scales.dtype == np.float32
    assert quantized.codes.tolist() == [[127, -128, 0]]
    np.testing.assert_array_equal(x, before)


def test_grids_of_one_sign_start_at_zero() -> None:
    low, high = np.array([2, -8], np.float32), np.array([8, -2], np.float32)
    scales, zero_points = activation_grid(low, high, scheme_of("per-token", 4, symmetric=False))
    np.testing.assert_allclose(scales, 8 / 15)
    assert zero_points.tolist() == [-8, 7]


def test_zero_points_next_to_a_half_are_those_of_the_graph() -> None:
    """Adding the least code after the rounding, not before, moved these three by one."""
    low = np.float32([-0.1730148196220398, -0.11372369527816772, -0.009595751762390137])
    x = np.stack([low, np.float32([0.7558016180992126, 0.3656075596809387, 0.9691699147224426])], 1)
    quantized = quantize_activations(x, scheme_of("per-token", 8, symmetric=False))
    codes, scales, zero_points = quantize_asymmetric(x, 8, -1)
    assert zero_points.ravel().tolist() == [-80, -68, -126]
    np.testing.assert_array_equal(quantized.zero_points, zero_points)
    np.testing.assert_array_equal(quantized.scales, scales)
    np.testing.assert_array_equal(quantized.codes, codes)
