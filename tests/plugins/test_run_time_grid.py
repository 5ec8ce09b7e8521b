from __future__ import annotations

import numpy as np
import pytest

from castline.plugins.run_time_grid import (
    PER_TENSOR,
    PER_TOKEN,
    body,
    quantize_asymmetric,
    quantize_symmetric,
)

X = np.array([[1.0, -2.0, 0.5], [4.0, 8.0, 0.0]], np.float32)


def test_symmetric_grids_by_hand() -> None:
    codes, scale = quantize_symmetric(X, 3, -1)  # codes -3 to 3
    np.testing.assert_array_equal(scale, np.float32([[2 / 3], [8 / 3]]))
    assert codes.tolist() == [[2, -3, 1], [2, 3, 0]]
    codes, scale = quantize_symmetric(X, 3, None)
    assert scale == np.float32(8 / 3)
    assert codes.tolist() == [[0, -1, 0], [2, 3, 0]]


def test_grids_with_zero_points_by_hand() -> None:
    codes, scale, zero = quantize_asymmetric(X, 2, -1)  # codes -2 to 1
    np.testing.assert_array_equal(scale, np.float32([[1], [8 / 3]]))
    assert zero.tolist() == [[0], [-2]]
    assert codes.tolist() == [[1, -2, 0], [0, 1, -2]]


@pytest.mark.parametrize("symmetric", [True, False])
def test_bodies_differ_in_their_ranges_alone(symmetric: bool) -> None:
    token, tensor = (body(form, symmetric=symmetric) for form in (PER_TOKEN, PER_TENSOR))
    assert token != tensor
    assert token.replace(PER_TOKEN, PER_TENSOR) == tensor
