"""Sums of squares are those of float64, of any shape and type."""

from __future__ import annotations

import pytest
import torch

from castline.compiler.search.squares import sum_of_squares


@pytest.mark.parametrize("shape", [(7,), (1536, 576), (3, 5, 4096), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_those_of_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 100
    values = values.to(dtype)
    assert sum_of_squares(values) == pytest.approx(float(values.double().square().sum()), rel=1e-6)


def test_what_strides_over_other_values_is_summed_alone() -> None:
    values = torch.arange(12.0).reshape(3, 4)
    assert sum_of_squares(values.T[1:3]) == pytest.approx(1 + 25 + 81 + 4 + 36 + 100)
