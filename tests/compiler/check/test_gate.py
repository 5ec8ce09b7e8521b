"""The gate passes what keeps its limits, and says of the rest by how much it does not."""

from __future__ import annotations

import math

import pytest

from castline.compiler.check.gate import judge, nothing_judged, require
from castline.compiler.recipes.thresholds import Thresholds
from castline.errors import GateFailedError

DECODER = {
    "perplexity_ratio": 1.1,
    "kl_divergence": 0.02,
    "top1_agreement": 0.9,
    "logits_cosine": 0.995,
}
ENCODER = {"hidden_cosine": 0.99, "embedding_cosine": 0.98, "similarity_correlation": 0.97}
WIDE = Thresholds(perplexity_ratio=1.2, kl_divergence=0.05, top1_agreement=0.85, logits_cosine=0.99)
NARROW = WIDE.model_copy(update={"perplexity_ratio": 1.05, "top1_agreement": 0.95})


def test_every_threshold_that_is_set_gives_a_verdict() -> None:
    verdicts = judge(WIDE, DECODER)
    assert [(v.name, v.value, v.limit, v.passed) for v in verdicts] == [
        ("perplexity ratio", 1.1, 1.2, True),
        ("kl divergence", 0.02, 0.05, True),
        ("top1 agreement", 0.9, 0.85, True),
        ("logits cosine", 0.995, 0.99, True),
    ]
    require(verdicts)


def test_without_thresholds_there_is_nothing_to_fail() -> None:
    assert judge(Thresholds(), DECODER) == ()
    require(())


def test_a_value_on_its_limit_passes() -> None:
    verdicts = judge(Thresholds(kl_divergence=0.02, top1_agreement=0.9), DECODER)
    assert [verdict.passed for verdict in verdicts] == [True, True]


def test_a_failure_lists_every_failed_number_its_limit_and_by_how_much() -> None:
    verdicts = judge(NARROW, DECODER)
    with pytest.raises(GateFailedError) as failure:
        require(verdicts)
    assert str(failure.value).splitlines()[1:-1] == [
        "  perplexity ratio is 1.1, must be at most 1.05: 0.05 above it",
        "  top1 agreement is 0.9, must be at least 0.95: 0.05 below it",
    ]
    assert failure.value.exit_code == 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_figures_that_are_not_finite_never_pass_an_upper_limit(value: float) -> None:
    figures = {"perplexity_ratio": value, "kl_divergence": value}
    verdicts = judge(Thresholds(perplexity_ratio=1e300, kl_divergence=1e300), figures)
    assert [verdict.passed for verdict in verdicts] == [False, False]
    with pytest.raises(GateFailedError, match=f"kl divergence is {value}, must be at most"):
        require(verdicts)


def test_nan_never_passes_a_lower_limit() -> None:
    figures = {"top1_agreement": math.nan, "logits_cosine": math.nan}
    verdicts = judge(Thresholds(top1_agreement=0.0, logits_cosine=0.0), figures)
    assert [verdict.passed for verdict in verdicts] == [False, False]


def test_a_threshold_whose_figure_was_not_measured_fails() -> None:
    figures = {"kl_divergence": None, "logits_cosine": None}
    verdicts = judge(Thresholds(kl_divergence=0.1, logits_cosine=0.9), figures)
    with pytest.raises(GateFailedError, match=r"kl divergence was not measured.*\n.*cosine was"):
        require(verdicts)


def test_a_model_is_judged_by_the_thresholds_of_its_kind() -> None:
    both = WIDE.model_copy(update={"hidden_cosine": 0.9, "similarity_correlation": 0.98})
    assert [(v.name, v.passed) for v in judge(both, ENCODER)] == [
        ("hidden cosine", True),
        ("similarity correlation", False),
    ]
    assert judge(WIDE, ENCODER) == ()
    assert len(judge(both, DECODER)) == 4


def test_it_is_said_that_nothing_was_judged() -> None:
    (note,) = nothing_judged(judge(WIDE, ENCODER), ENCODER)
    assert note.endswith("no threshold on hidden_cosine, embedding_cosine, similarity_correlation")
    assert nothing_judged(judge(WIDE, DECODER), DECODER) == ()
