"""The better of two scales is the one with the smaller error; the first wins a tie."""

from __future__ import annotations

import torch

from castline.compiler.search.found_scale import LARGEST, FoundScale

NONE = FoundScale(torch.ones(2), None, 0.5, 0.5, "mlp")


def test_a_smaller_error_wins_and_the_rest_stays() -> None:
    scale = torch.tensor([2.0, 0.5])
    found = NONE.or_better(scale, 0.3, 0.4)
    assert found.scale is scale
    assert (found.alpha, found.error, found.error_before, found.inspected) == (0.3, 0.4, 0.5, "mlp")


def test_no_scale_wins_a_tie_and_over_what_is_no_number() -> None:
    for error in (0.5, 0.6, float("nan")):
        assert NONE.or_better(torch.zeros(2), 0.3, error) is NONE


def test_the_largest_scale_times_a_weight_of_7_fits_float16() -> None:
    limits = torch.finfo(torch.float16)
    assert limits.max > LARGEST * 7
    assert limits.tiny <= 1 / LARGEST
