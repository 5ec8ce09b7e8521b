"""Counts do not depend on how values come in batches."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castline.compiler.quant.histogram import BINS, Histogram

ZERO = BINS // 2  # the bin that starts at 0


def of(*batches: np.ndarray) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.update(batch)
    return histogram


def test_the_width_is_the_least_power_of_two_that_holds_all_values() -> None:
    histogram = of(np.array([-3.0, 0.5, 0.0, 2.5], np.float32))
    assert histogram.width == 4 / 4096
    assert (histogram.low, histogram.high, histogram.peak) == (-3, 2.5, 3)
    (held,) = np.nonzero(histogram.counts)
    assert (held - ZERO).tolist() == [-3072, 0, 512, 2560]


def test_a_power_of_two_lies_within_the_bins_on_both_sides() -> None:
    histogram = of(np.array([1.0, -1.0], np.float32))
    assert histogram.width == 2 / 4096
    assert histogram.counts[ZERO + 2048] == histogram.counts[ZERO - 2048] == 1


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(0, 500), max_size=6),
    spread=st.floats(0, 15),
)
def test_counts_are_the_same_however_the_batches_are_cut(
    seed: int, cuts: list[int], spread: float
) -> None:
    random = np.random.default_rng(seed)
    values = random.standard_normal(500) * np.exp(spread * random.standard_normal(500))
    values = values.astype(np.float32)
    whole, parts = of(values), of(*np.split(values, sorted(cuts)))
    np.testing.assert_array_equal(whole.counts, parts.counts)
    assert (whole.width, whole.low, whole.high) == (parts.width, parts.low, parts.high)
    assert whole.total == values.size
    assert whole.low == min(values.min(), 0)
    assert whole.high == max(values.max(), 0)


def test_counts_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).standard_normal(3_000_000).astype(np.float32)
    histogram = of(values)
    edges = np.arange(-ZERO, ZERO + 1) * histogram.width
    np.testing.assert_array_equal(histogram.counts, np.histogram(values, edges)[0])


def test_zeros_and_nothing_at_all_have_no_range() -> None:
    for histogram in (of(), of(np.empty((0, 3), np.float32)), of(np.zeros((2, 3), np.float32))):
        assert histogram.low == histogram.high == histogram.peak == 0
        assert histogram.total == histogram.counts[ZERO]


def test_what_is_too_small_for_a_bin_counts_as_zero() -> None:
    histogram = of(np.array([1e-44, -1e-44], np.float32))
    assert histogram.counts[ZERO - 1 : ZERO + 1].tolist() == [1, 1]
    assert 0 < histogram.high < 1e-43


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floats_are_counted_as_float32(dtype: type) -> None:
    values = np.random.default_rng(0).standard_normal((7, 9)).astype(dtype)
    expected = of(values.astype(np.float32))
    np.testing.assert_array_equal(of(values).counts, expected.counts)


def test_the_largest_numbers_are_counted() -> None:
    most = np.finfo(np.float32).max
    histogram = of(np.array([most, -most, 1.0], np.float32))
    assert histogram.counts[[0, ZERO, -1]].tolist() == [1, 1, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_not_finite_and_counts_nothing(bad: float) -> None:
    histogram = of(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="1 of 4 values are NaN or infinite"):
        histogram.update(np.array([1, bad, 2, 9], np.float32))
    assert histogram.total == 3
    assert histogram.high == 1
