"""Grids in torch are those of the arithmetic in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from castline.compiler.quant import activations as numpy_activations
from castline.compiler.quant import weight_grid as numpy_weights
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme
from castline.compiler.search.fake_grids import activation_grid, ends, static_grid, weight_grid

# Of both signs, of one sign, of nothing, and too small and too large for a careless scale.
LOW = np.array([-3.7, 0.5, -2, 0, -1e-40, -3e38], np.float32)[:, None]
HIGH = np.array([1.3, 2.5, -1, 0, 1e-41, 3e38], np.float32)[:, None]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_weight_grids_are_the_same(bits: int, symmetric: bool) -> None:
    scheme = WeightScheme(bits, "per-channel", symmetric)
    grid = weight_grid(torch.from_numpy(LOW), torch.from_numpy(HIGH), scheme)
    expected = numpy_weights.weight_grid(LOW, HIGH, scheme, np.float32)
    np.testing.assert_array_equal(grid.scale.numpy(), expected.scales)
    if symmetric:
        assert grid.zero_point is expected.zero_points is None
    else:
        assert grid.zero_point is not None
        np.testing.assert_array_equal(grid.zero_point.numpy(), expected.zero_points)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_activation_grids_are_the_same(bits: int, symmetric: bool) -> None:
    scheme = ActivationScheme(bits, "per-token", dynamic=True, symmetric=symmetric)
    low, high = LOW[:-1], HIGH[:-1]
    grid = activation_grid(torch.from_numpy(low), torch.from_numpy(high), scheme)
    scales, zero_points = numpy_activations.activation_grid(low, high, scheme)
    np.testing.assert_array_equal(grid.scale.numpy(), scales)
    if grid.zero_point is None:
        assert symmetric
        assert not zero_points.any()
    else:
        np.testing.assert_array_equal(grid.zero_point.numpy(), zero_points)


def test_halves_go_to_the_even_code_and_the_rest_is_clipped() -> None:
    scheme = ActivationScheme(4, "per-tensor", dynamic=False)
    grid = static_grid(QuantParameters(2.0, 0), scheme, torch.device("cpu"))
    values = torch.tensor([1.0, 3.0, -1.0, 5.0, 99.0, -99.0])
    assert grid.rounded(values).tolist() == [0, 4, 0, 4, 14, -16]
    lifted = ActivationScheme(4, "per-tensor", dynamic=False, symmetric=False)
    grid = static_grid(QuantParameters(2.0, 5), lifted, torch.device("cpu"))
    assert grid.rounded(values).tolist() == [0, 4, 0, 4, 4, -26]


def test_the_ends_of_each_row() -> None:
    low, high = ends(torch.tensor([[[1.0, -2.0, 3.0]], [[4.0, 4.0, 4.0]]]))
    assert low.tolist() == [[[-2.0]], [[4.0]]]
    assert high.tolist() == [[[3.0]], [[4.0]]]
