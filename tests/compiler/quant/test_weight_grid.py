"""A grid of codes reaches both ends of a range and holds zero."""

from __future__ import annotations

import numpy as np
import pytest

from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.quant.weight_grid import LEAST_SCALE, weight_grid


def column(*numbers: float) -> np.ndarray:
    """Return [groups, 1, 1]."""
    return np.array(numbers, np.float32)[:, None, None]


def test_a_symmetric_grid_uses_the_code_that_twos_complement_has_more_below_zero() -> None:
    grid = weight_grid(column(-8, -1), column(1, 7), WeightScheme(4, 32, True), np.float32)
    assert grid.zero_points is None
    assert grid.scales.ravel().tolist() == [1, 1]
    weights = np.array([[[-8], [-9], [0.5], [1.5], [7], [99]]], np.float32).repeat(2, axis=0)
    codes = grid.codes(weights)
    assert codes[0].ravel().tolist() == [-8, -8, 0, 2, 7, 7]
    np.testing.assert_array_equal(grid.weights(codes), codes)


@pytest.mark.parametrize(("low", "high", "zero"), [(-3, 12, 3), (5, 15, 0), (-15, -5, 15)])
def test_a_grid_with_zero_points_holds_zero(low: float, high: float, zero: int) -> None:
    grid = weight_grid(column(low), column(high), WeightScheme(4, 32, False), np.float32)
    assert grid.scales.item() == 1
    assert grid.zero_points is not None
    assert grid.zero_points.item() == zero
    assert grid.weights(grid.codes(column(0))).item() == 0
    assert grid.weights(grid.codes(column(low))).item() == low


def test_scales_are_rounded_up_to_the_type_that_they_are_kept_in() -> None:
    grid = weight_grid(column(0), column(7 * 1.0001), WeightScheme(4, 32, True), np.float16)
    assert grid.scales.dtype == np.float16
    assert grid.scales.item() == 1 + 2**-10


def test_zeros_get_the_scale_one_and_next_to_nothing_the_least() -> None:
    grid = weight_grid(column(0, -1e-40), column(0, 1e-40), WeightScheme(8, 32, True), np.float32)
    assert grid.scales.ravel().tolist() == [1, LEAST_SCALE]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_width_has_its_codes(bits: int, symmetric: bool) -> None:
    scheme = WeightScheme(bits, 32, symmetric)
    grid = weight_grid(column(-1), column(1), scheme, np.float32)
    codes = grid.codes(np.linspace(-2, 2, 4001, dtype=np.float32)[None, :, None])
    least, most = scheme.code_range
    assert (codes.min(), codes.max()) == (least, most)
    assert len(np.unique(codes)) == 2**bits
