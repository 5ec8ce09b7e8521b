"""The gate passes what keeps its limits, and says of the rest by how much it does not."""

from __future__ import annotations

import math

import pytest

from castline.compiler.check.gate import judge, require
from castline.compiler.check.language import LanguageFigures
from castline.compiler.check.tensors import TensorFigure, TensorFigures
from castline.compiler.recipes.thresholds import Thresholds
from castline.errors import GateFailedError

LANGUAGE = LanguageFigures(
    perplexity_original=10.0, perplexity=11.0, kl_divergence=0.02, top1_agreement=0.9, tokens=100
)
TENSORS = TensorFigures((TensorFigure("logits", relative_error=0.1, cosine=0.995),))
WIDE = Thresholds(perplexity_ratio=1.2, kl_divergence=0.05, top1_agreement=0.85, logits_cosine=0.99)
NARROW = WIDE.model_copy(update={"perplexity_ratio": 1.05, "top1_agreement": 0.95})


def test_every_threshold_that_is_set_gives_a_verdict() -> None:
    verdicts = judge(WIDE, LANGUAGE, TENSORS)
    assert [(v.name, v.value, v.limit, v.passed) for v in verdicts] == [
        ("perplexity ratio", pytest.approx(1.1), 1.2, True),
        ("kl divergence", 0.02, 0.05, True),
        ("top1 agreement", 0.9, 0.85, True),
        ("logits cosine", 0.995, 0.99, True),
    ]
    require(verdicts)


def test_without_thresholds_there_is_nothing_to_fail() -> None:
    assert judge(Thresholds(), None, None) == ()
    require(())


def test_a_value_on_its_limit_passes() -> None:
    verdicts = judge(Thresholds(kl_divergence=0.02, top1_agreement=0.9), LANGUAGE, None)
    assert [verdict.passed for verdict in verdicts] == [True, True]


def test_a_failure_lists_every_failed_number_its_limit_and_by_how_much() -> None:
    verdicts = judge(NARROW, LANGUAGE, TENSORS)
    with pytest.raises(GateFailedError) as failure:
        require(verdicts)
    assert str(failure.value).splitlines()[1:-1] == [
        "  perplexity ratio is 1.1, must be at most 1.05: 0.05 above it",
        "  top1 agreement is 0.9, must be at least 0.95: 0.05 below it",
    ]
    assert failure.value.exit_code == 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_figures_that_are_not_finite_never_pass_an_upper_limit(value: float) -> None:
    language = LanguageFigures(10.0, value, value, 1.0, 100)
    verdicts = judge(Thresholds(perplexity_ratio=1e300, kl_divergence=1e300), language, None)
    assert [verdict.passed for verdict in verdicts] == [False, False]
    with pytest.raises(GateFailedError, match=f"kl divergence is {value}, must be at most"):
        require(verdicts)


def test_nan_never_passes_a_lower_limit() -> None:
    language = LanguageFigures(10.0, 10.0, 0.0, math.nan, 100)
    tensors = TensorFigures((TensorFigure("logits", math.nan, math.nan),))
    verdicts = judge(Thresholds(top1_agreement=0.0, logits_cosine=0.0), language, tensors)
    assert [verdict.passed for verdict in verdicts] == [False, False]


def test_an_original_that_is_not_finite_gives_no_ratio_to_pass() -> None:
    language = LanguageFigures(math.inf, 10.0, 0.0, 1.0, 100)
    (verdict,) = judge(Thresholds(perplexity_ratio=1.1), language, None)
    assert not verdict.passed


def test_a_threshold_whose_figure_was_not_measured_fails() -> None:
    verdicts = judge(Thresholds(kl_divergence=0.1, logits_cosine=0.9), None, None)
    with pytest.raises(GateFailedError, match=r"kl divergence was not measured.*\n.*cosine was"):
        require(verdicts)
