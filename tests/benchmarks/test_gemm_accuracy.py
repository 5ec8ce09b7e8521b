"""Check that wrong products are told from rounded ones."""

from __future__ import annotations

import pytest
import torch

ONES = torch.ones(2, 3, dtype=torch.float64)


def test_the_nearest_values_are_right() -> None:
    from gemm_accuracy import errors

    reference = torch.linspace(-3, 3, 12, dtype=torch.float64).reshape(3, 4)
    for dtype in (torch.float16, torch.bfloat16):
        found = errors(reference.to(dtype), reference)
        assert found.steps == 0
        assert found.refusal(dtype, "integer") is None


@pytest.mark.parametrize(("value", "step"), [(1.0, 2.0**-10), (-3.0, 2.0**-9), (0.75, 2.0**-11)])
def test_a_step_is_the_unit_in_the_last_place(value: float, step: float) -> None:
    from gemm_accuracy import step_of

    assert step_of(torch.tensor([value], dtype=torch.float64), torch.float16).item() == step


def test_the_worst_value_is_named() -> None:
    from gemm_accuracy import errors

    y = ONES.half()
    y[1, 2] += 3 * 2.0**-10
    found = errors(y, ONES)
    assert found.at == (1, 2)
    assert found.steps == 2.5  # half a step is what rounding costs
    assert "y[1, 2] is 2.5 units" in (found.refusal(torch.float16, "integer") or "")


def test_what_nobody_wrote_is_found() -> None:
    from gemm_accuracy import errors

    y = torch.full((2, 3), torch.nan, dtype=torch.float16)
    assert "6 values" in (errors(y, ONES).refusal(torch.float16, "weight-only") or "")


def test_an_error_everywhere_is_found_by_its_size() -> None:
    from gemm_accuracy import errors

    y = (ONES * 1.002).half()
    refusal = errors(y, ONES).refusal(torch.float16, "weight-only")
    assert refusal is not None
    assert "relative error" in refusal
