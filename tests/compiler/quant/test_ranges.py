"""Static ranges: by hand where a hand can reckon them, and by trying all of them where not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from castline.compiler.quant.activations import dequantize_activations, quantize_activations
from castline.compiler.quant.histogram import Histogram
from castline.compiler.quant.ranges import activation_parameters, best_range
from castline.compiler.quant.scheme import ActivationScheme, Method, QuantParameters, RangeMethod

METHODS: tuple[Method, ...] = ("max", "percentile", "mse", "entropy")


def static(
    method: Method, bits: int = 8, *, symmetric: bool = True, percentile: float = 99.9
) -> ActivationScheme:
    return ActivationScheme(
        bits,
        "per-tensor",
        dynamic=False,
        symmetric=symmetric,
        range=RangeMethod(method, percentile),
    )


def histogram_of(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.update(values)
    return histogram


def error_of(values: np.ndarray, scheme: ActivationScheme, parameters: QuantParameters) -> float:
    rounded = dequantize_activations(quantize_activations(values, scheme, parameters))
    return float(np.square(rounded.astype(np.float64) - values).sum())


def normal(count: int = 200_000) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(count).astype(np.float32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [0, 5])
def test_zeros_have_the_scale_one(method: Method, symmetric: bool, size: int) -> None:
    parameters = activation_parameters(
        histogram_of(np.zeros(size, np.float32)), static(method, symmetric=symmetric)
    )
    assert parameters.scale == 1
    assert parameters.zero_point == (0 if symmetric else -128)


def test_max_reaches_the_exact_ends() -> None:
    histogram = histogram_of(np.array([-2.0, 0.3, 3.1], np.float32))
    assert activation_parameters(histogram, static("max")) == QuantParameters(
        float(np.float32(3.1) / np.float32(127)), 0
    )
    lifted = activation_parameters(histogram, static("max", symmetric=False))
    assert lifted.scale == pytest.approx(5.1 / 255)
    assert lifted.zero_point == -128 + 100


def test_max_of_one_sign_starts_at_zero() -> None:
    histogram = histogram_of(np.array([4.0, 5.1], np.float32))
    parameters = activation_parameters(histogram, static("max", symmetric=False))
    assert (parameters.scale, parameters.zero_point) == (pytest.approx(5.1 / 255), -128)


@pytest.mark.parametrize("percentile", [60.0, 99.0, 99.9, 100.0])
def test_a_percentile_is_that_of_the_values_to_a_bin(percentile: float) -> None:
    values = normal() + np.float32(0.5)
    histogram = histogram_of(values)
    low, high = best_range(histogram, static("percentile", percentile=percentile))
    assert -low == high
    assert high == pytest.approx(np.percentile(np.abs(values), percentile), abs=histogram.width)
    ends = best_range(histogram, static("percentile", symmetric=False, percentile=percentile))
    tail = (100 - percentile) / 2
    expected = np.percentile(values, [tail, 100 - tail])
    assert ends == pytest.approx(expected.tolist(), abs=histogram.width)


def test_a_whole_percentile_is_the_whole_range() -> None:
    values = normal(1000)
    low, high = best_range(
        histogram_of(values), static("percentile", symmetric=False, percentile=100)
    )
    assert (low, high) == pytest.approx((values.min(), values.max()), rel=1e-6)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_no_range_of_a_fine_search_has_a_much_smaller_squared_error(
    bits: int, symmetric: bool
) -> None:
    values = np.random.default_rng(1).laplace(0.1, 1, 20_000).astype(np.float32)
    scheme = static("mse", bits, symmetric=symmetric)
    found = error_of(values, scheme, activation_parameters(histogram_of(values), scheme))
    levels = scheme.code_range[1] - scheme.code_range[0]
    shares = np.linspace(0.1, 1, 46)
    lows = [-values.max()] if symmetric else values.min() * shares[::3]
    tried = []
    for low, high in itertools.product(lows, values.max() * shares):
        scale = high / scheme.code_range[1] if symmetric else (high - low) / levels
        zero = 0 if symmetric else round(-low / scale) + scheme.code_range[0]
        tried.append(error_of(values, scheme, QuantParameters(float(scale), int(zero))))
    assert found <= 1.03 * min(tried)


def test_the_squared_error_of_few_bits_is_known_for_the_normal_distribution() -> None:
    # J. Max, Quantizing for minimum distortion, 1960, table II: 8 uniform levels have their best
    # step at 0.586 of the deviation; 7 levels with one at zero need a slightly wider one.
    parameters = activation_parameters(histogram_of(normal()), static("mse", 3))
    assert 0.586 < parameters.scale < 0.72


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_an_outlier_far_out_is_clipped(method: Method, symmetric: bool) -> None:
    values = normal()
    values[0] = 60
    low, high = best_range(histogram_of(values), static(method, 4, symmetric=symmetric))
    assert 2 < high < 8
    if not symmetric:
        assert -8 < low < -2


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_nothing_is_clipped_of_what_is_spread_evenly(method: Method) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 300_000).astype(np.float32)
    for symmetric in (True, False):
        low, high = best_range(histogram_of(values), static(method, symmetric=symmetric))
        assert (low, high) == pytest.approx((-1, 1), abs=0.01)


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_the_end_without_values_stays_zero(method: Method) -> None:
    values = np.abs(normal())
    low, high = best_range(histogram_of(values), static(method, 4, symmetric=False))
    assert low == 0
    assert 2 < high <= values.max()


def test_the_divergence_is_that_reckoned_by_hand() -> None:
    # Codes -1, 0 and 1, shares of |x| .48 at 1, .30 at 2 and .22 at 6; zeros tell nothing.
    # By the reach of the grid:
    # 6       codes 0, 0, 1  P = (.48, .30, .22)  Q = (.39, .39, .22)  divergence .0210
    # 4 to 6  codes 0, 0     P = (.48, .52)       Q = (.50, .50)       divergence .0008
    # 2 to 4  codes 0, 1     P = (.48, .52)       Q = (.62, .38)       divergence .0376
    # Below 2 more than half is clipped. Of what is as good, the widest range is taken.
    values = np.repeat(np.array([0, 1, -2, 6], np.float32), [500, 48, 30, 22])
    low, high = best_range(histogram_of(values), static("entropy", 2))
    assert -low == high == pytest.approx(6 * 2 ** (-1 / 16))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_parameters_fit_the_grid_whatever_the_width(
    method: Method, bits: int, symmetric: bool
) -> None:
    scheme = static(method, bits, symmetric=symmetric)
    parameters = activation_parameters(histogram_of(normal(5000) * 3 + 1), scheme)
    assert 0 < parameters.scale < 20
    assert parameters.scale == np.float32(parameters.scale)
    assert scheme.code_range[0] <= parameters.zero_point <= scheme.code_range[1]


def test_the_batches_do_not_matter() -> None:
    values = normal(10_000)
    cut = Histogram()
    for batch in np.array_split(values, 7):
        cut.update(batch)
    for method in METHODS:
        scheme = static(method)
        whole = activation_parameters(histogram_of(values), scheme)
        assert activation_parameters(cut, scheme) == whole
