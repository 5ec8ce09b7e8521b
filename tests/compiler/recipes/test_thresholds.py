"""Thresholds hold limits that can be kept."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from castline.compiler.recipes.thresholds import Thresholds


def test_without_values_nothing_is_limited() -> None:
    assert set(Thresholds().model_dump().values()) == {None}


@pytest.mark.parametrize(
    ("field", "limit"),
    [
        ("perplexity_ratio", -0.1),
        ("perplexity_ratio", 0.0),
        ("perplexity_ratio", math.inf),
        ("kl_divergence", math.nan),
        ("top1_agreement", 1.01),
        ("top1_agreement", math.nan),
        ("logits_cosine", 99.0),
        ("logits_cosine", -0.5),
        ("hidden_cosine", 1.1),
        ("embedding_cosine", -1.0),
        ("similarity_correlation", math.nan),
    ],
)
def test_a_limit_that_means_nothing_is_refused_by_name(field: str, limit: float) -> None:
    with pytest.raises(ValidationError, match=field):
        Thresholds(**{field: limit})


@pytest.mark.parametrize(
    ("field", "limit"),
    [("perplexity_ratio", 1.0), ("kl_divergence", 0.0), ("top1_agreement", 1.0),
     ("logits_cosine", 0.0), ("hidden_cosine", 1.0), ("similarity_correlation", 0.0)],
)  # fmt: skip
def test_the_extremes_of_what_means_something_are_taken(field: str, limit: float) -> None:
    assert Thresholds(**{field: limit}).model_dump()[field] == limit
