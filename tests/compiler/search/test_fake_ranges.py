"""Ranges in torch are those of the arithmetic in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from castline.compiler.quant import weight_ranges as arithmetic
from castline.compiler.quant.scheme import GroupSize, Method, RangeMethod, WeightScheme
from castline.compiler.search.fake_ranges import weight_range


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("group", "method"),
    [
        (16, "max"),
        (16, "percentile"),
        (16, "mse"),
        ("per-channel", "entropy"),
        ("per-channel", "mse"),
        ("per-channel", "percentile"),
    ],
)
def test_each_row_has_the_range_that_numpy_chooses(
    group: GroupSize, method: Method, symmetric: bool
) -> None:
    scheme = WeightScheme(3, group, symmetric, RangeMethod(method, 97))
    rows = np.random.default_rng(0).standard_t(3, (50, 16)).astype(np.float32)
    rows[7] = 0
    low, high = weight_range(torch.from_numpy(rows), scheme)
    expected = arithmetic.weight_range(np.ascontiguousarray(rows.T)[None], scheme)
    np.testing.assert_array_equal(low.numpy().ravel(), expected[0].ravel())
    np.testing.assert_array_equal(high.numpy().ravel(), expected[1].ravel())


def test_more_rows_than_are_searched_together() -> None:
    scheme = WeightScheme(3, 128, True, RangeMethod("mse"))
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((9000, 128), np.float32))
    low, high = weight_range(rows, scheme)
    again = weight_range(rows[8990:], scheme)
    assert torch.equal(low[8990:], again[0])
    assert torch.equal(high[8990:], again[1])
