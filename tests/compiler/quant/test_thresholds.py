"""Thresholds hold limits that can be kept."""

from __future__ import annotations

import math

import pytest

from castline.compiler.quant.thresholds import Thresholds


def test_without_values_nothing_is_limited() -> None:
    assert Thresholds() == Thresholds(None, None, None, None)


@pytest.mark.parametrize(
    ("field", "limit"),
    [
        ("perplexity_ratio", -0.1),
        ("kl_divergence", math.nan),
        ("top1_agreement", 1.01),
        ("logits_cosine", 99.0),
    ],
)
def test_a_limit_that_means_nothing_is_refused_by_name(field: str, limit: float) -> None:
    with pytest.raises(ValueError, match=rf"{field} is {limit}, expected 0 or more"):
        Thresholds(**{field: limit})
