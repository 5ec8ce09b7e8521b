"""Ranges of weights are clipped as the method says, and by mse never for the worse."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from castline.compiler.quant.round_to_nearest import dequantize, quantize
from castline.compiler.quant.scheme import GroupSize, RangeMethod, WeightScheme
from castline.compiler.quant.weight_ranges import (
    entropy_range,
    percentile_place,
    shrink_factors,
    weight_range,
)

GROUPS: tuple[GroupSize, ...] = (16, "per-channel", "per-tensor")
WEIGHTS = np.random.default_rng(0).standard_t(4, (64, 12)).astype(np.float32)


def grouped(weights: np.ndarray, group: GroupSize) -> np.ndarray:
    k, n = weights.shape
    width = group if isinstance(group, int) else k
    return weights.reshape(k // width, width, n)


def alone(weights: np.ndarray, group: GroupSize) -> list[np.ndarray]:
    """Return the weights that share each scale, in the order of the scales."""
    if group == "per-tensor":
        return [weights.ravel()]
    parts = grouped(weights, group)
    return [parts[i, :, j] for i in range(parts.shape[0]) for j in range(parts.shape[2])]


def error(weights: np.ndarray, scheme: WeightScheme, scale_type: type = np.float32) -> np.ndarray:
    """Return the squared error of each scale's weights, in float64."""
    rounded = dequantize(quantize(weights, scheme, scale_type)).astype(np.float64)
    apart = np.square(rounded - weights)
    return np.array([part.sum() for part in alone(apart, scheme.group_size)])


@pytest.mark.parametrize("group", GROUPS)
def test_max_reaches_both_ends(group: GroupSize) -> None:
    low, high = weight_range(grouped(WEIGHTS, group), WeightScheme(4, group, True))
    assert low.ravel().tolist() == [part.min() for part in alone(WEIGHTS, group)]
    assert high.ravel().tolist() == [part.max() for part in alone(WEIGHTS, group)]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("percentile", [75.0, 99.0, 100.0])
def test_a_percentile_is_taken_within_each_group(group: GroupSize, percentile: float) -> None:
    method = RangeMethod("percentile", percentile)
    parts = alone(WEIGHTS, group)
    low, high = weight_range(grouped(WEIGHTS, group), WeightScheme(4, group, True, method))
    reach = [np.percentile(np.abs(part), percentile) for part in parts]
    expected = np.minimum([part.max() for part in parts], reach)
    np.testing.assert_allclose(high.ravel(), expected, rtol=1e-6)
    expected = np.maximum([part.min() for part in parts], np.negative(reach))
    np.testing.assert_allclose(low.ravel(), expected, rtol=1e-6)
    low, high = weight_range(grouped(WEIGHTS, group), WeightScheme(4, group, False, method))
    tail = (100 - percentile) / 2
    np.testing.assert_allclose(high.ravel(), [np.percentile(p, 100 - tail) for p in parts], 1e-6)
    np.testing.assert_allclose(low.ravel(), [np.percentile(p, tail) for p in parts], 1e-6)


def test_percentiles_are_between_two_sorted_values() -> None:
    assert percentile_place(0.5, 5) == (2, 0)
    assert percentile_place(0.25, 4) == (0, 0.75)
    assert percentile_place(1.0, 4) == (2, 1)
    assert percentile_place(0.9, 1) == (0, 0)


@pytest.mark.parametrize("scale_type", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    ("bits", "group", "symmetric"),
    list(itertools.product((2, 3, 4, 8), (16, 32, "per-channel", "per-tensor"), (True, False))),
)
def test_no_scale_is_worse_by_mse_than_by_max(
    bits: int, group: GroupSize, symmetric: bool, scale_type: type
) -> None:
    by_max = WeightScheme(bits, group, symmetric)
    by_mse = WeightScheme(bits, group, symmetric, RangeMethod("mse"))
    before, after = error(WEIGHTS, by_max, scale_type), error(WEIGHTS, by_mse, scale_type)
    assert np.all(after <= before * (1 + 1e-6))
    if bits < 8:
        assert after.sum() < 0.98 * before.sum()


@pytest.mark.parametrize("symmetric", [True, False])
def test_mse_is_the_best_of_the_factors(symmetric: bool) -> None:
    weights = WEIGHTS[:16, :1]
    scheme = WeightScheme(3, 16, symmetric, RangeMethod("mse"))
    errors = []
    for factor in np.linspace(1, 0.4, 25, dtype=np.float32):
        ends = np.array([[weights.min()], [weights.max()]], np.float32) * factor
        # With the ends among them, the weights by max have the range of the factor.
        clipped = np.clip(weights, *ends[:, 0])
        rounded = dequantize(
            quantize(np.concatenate([clipped, *[ends] * 8]), WeightScheme(3, 32, symmetric))
        )
        errors.append(np.square(rounded[:16] - weights).sum())
    assert error(weights, scheme).item() == pytest.approx(min(errors), rel=1e-5)
    assert min(errors) < errors[0]


def test_mse_goes_far_where_many_weights_share_a_scale() -> None:
    scheme = WeightScheme(4, "per-tensor", True, RangeMethod("mse"))
    factors = shrink_factors(scheme)
    assert factors[0] == 1
    assert min(factors) == pytest.approx(1 / 40)
    assert min(shrink_factors(WeightScheme(4, 32, True, RangeMethod("mse")))) == 0.4
    weights = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
    weights[3, 4] = 60
    assert quantize(weights, scheme).scales.item() < 10 / 7


def test_many_columns_are_searched_as_few_are() -> None:
    weights = np.random.default_rng(0).standard_normal((1024, 3000)).astype(np.float32)
    scheme = WeightScheme(3, 128, False, RangeMethod("mse"))
    whole = quantize(weights, scheme).codes
    np.testing.assert_array_equal(whole[:, 2990:], quantize(weights[:, 2990:], scheme).codes)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", ["per-channel", "per-tensor"])
def test_by_entropy_all_scales_have_one_share_of_their_peaks(
    group: GroupSize, symmetric: bool
) -> None:
    weights = np.random.default_rng(0).standard_normal((4096, 8)).astype(np.float32)
    weights *= 2.0 ** np.arange(8, dtype=np.float32) if group == "per-channel" else 1
    weights[0], weights[1] = weights[2:].max(axis=0) * 20, weights[2:].min(axis=0) * 20
    scheme = WeightScheme(4, group, symmetric, RangeMethod("entropy"))
    low, high = weight_range(grouped(weights, group), scheme)
    peaks = [np.abs(part).max() for part in alone(weights, group)]
    shares = high.ravel() / peaks
    assert np.all(shares < 0.2), "the outlier is clipped"
    np.testing.assert_allclose(shares, shares[0], rtol=1e-5)
    below, above = entropy_range(weights / np.reshape(peaks, (1, -1)), scheme)
    np.testing.assert_allclose(low.ravel(), below * np.array(peaks), rtol=1e-5)
    assert above == pytest.approx(shares[0], rel=1e-5)


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_stay_zeros(method: str, symmetric: bool) -> None:
    weights = np.zeros((32, 3), np.float32)
    weights[:, 2] = 1
    scheme = WeightScheme(4, "per-channel", symmetric, RangeMethod(method))  # type: ignore[arg-type]
    matrix = quantize(weights, scheme)
    assert matrix.scales[0, :2].tolist() == [1, 1]
    np.testing.assert_allclose(dequantize(matrix), weights, rtol=1e-6)


@pytest.mark.parametrize("method", ["percentile", "mse"])
@pytest.mark.parametrize("k", [1, 2, 17])
def test_odd_shapes(method: str, k: int) -> None:
    for group, symmetric in itertools.product((32, "per-tensor"), (True, False)):
        scheme = WeightScheme(4, group, symmetric, RangeMethod(method))  # type: ignore[arg-type]
        matrix = quantize(WEIGHTS[:k, :3], scheme)
        assert matrix.codes.shape == (k, 3)
        assert np.all(np.isfinite(dequantize(matrix)))
