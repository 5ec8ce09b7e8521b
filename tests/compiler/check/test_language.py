"""Figures of language models, beside values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from castline.compiler.check import language
from castline.compiler.check.language import LanguageFigures, compare_language
from castline.errors import OutputError


class FixedModel:
    """A model that predicts the same for every token: the rows given, one a position."""

    def __init__(self, *rows: Sequence[float]) -> None:
        self.rows = np.array(rows, dtype=np.float32)

    def logits(self, input_ids: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.rows[: input_ids.shape[1]], (1, *self.rows.shape))


def probabilities(*values: float) -> list[float]:
    """Logits of the given probabilities, moved by a constant, which changes nothing."""
    with np.errstate(divide="ignore"):
        return (np.log(values) + 7.0).tolist()


LAST = probabilities(0.25, 0.75)  # the logits after the last token predict nothing and are not read


def figures(original: FixedModel, result: FixedModel, *windows: list[int]) -> LanguageFigures:
    return compare_language(original, result, np.array(windows, dtype=np.int64))


def test_the_figures_are_those_worked_out_by_hand() -> None:
    original = FixedModel(probabilities(0.5, 0.5), probabilities(0.25, 0.75), LAST)
    result = FixedModel(probabilities(0.8, 0.2), probabilities(0.4, 0.6), LAST)
    measured = figures(original, result, [0, 0, 1])
    # Token 0 after the first position, token 1 after the second.
    assert measured.perplexity_original == pytest.approx(1 / math.sqrt(0.5 * 0.75), rel=1e-6)
    assert measured.perplexity == pytest.approx(1 / math.sqrt(0.8 * 0.6), rel=1e-6)
    first = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    second = 0.25 * math.log(0.25 / 0.4) + 0.75 * math.log(0.75 / 0.6)
    assert measured.kl_divergence == pytest.approx((first + second) / 2, rel=1e-6)
    assert measured.top1_agreement == 1.0
    assert measured.tokens == 2
    assert measured.perplexity_ratio == pytest.approx(math.sqrt(0.375 / 0.48), rel=1e-6)


def test_agreement_is_the_share_of_equal_first_choices() -> None:
    original = FixedModel([1, 0], [1, 0], [1, 0], [1, 0], [1, 0])
    result = FixedModel([2, 0], [0, 1], [3, 0], [4, 0], [0, 9])
    assert figures(original, result, [0, 0, 0, 0, 0]).top1_agreement == 0.75


def test_windows_are_averaged_by_token() -> None:
    model = FixedModel(probabilities(0.2, 0.8), LAST)
    measured = figures(model, model, [0, 0], [0, 1])
    assert measured.perplexity == pytest.approx(1 / math.sqrt(0.2 * 0.8), rel=1e-6)
    assert measured.tokens == 2


def test_a_model_beside_itself_is_exactly_the_same() -> None:
    model = FixedModel([1.5, -3.25, 100.0], [0.1, 0.2, 0.3], [0, 0, 0])
    measured = figures(model, model, [0, 1, 2])
    assert measured.kl_divergence == 0.0
    assert measured.top1_agreement == 1.0
    assert measured.perplexity == measured.perplexity_original


def test_chunks_do_not_change_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    original, result = (FixedModel(*random.normal(size=(8, 5)) * 3) for _ in range(2))
    windows = [0, 1, 2, 3, 4, 3, 2, 1]
    whole = figures(original, result, windows)
    monkeypatch.setattr(language, "CHUNK_ELEMENTS", 15)
    assert figures(original, result, windows).kl_divergence == pytest.approx(whole.kl_divergence)
    assert figures(original, result, windows).perplexity == pytest.approx(whole.perplexity)


def test_huge_logits_do_not_overflow() -> None:
    original = FixedModel([3e38, 0.0], LAST)
    measured = figures(original, FixedModel([0.0, 0.0], LAST), [0, 0])
    assert measured.perplexity_original == pytest.approx(1.0)
    assert measured.kl_divergence == pytest.approx(math.log(2))


def test_a_token_the_original_rules_out_adds_nothing() -> None:
    original = FixedModel(probabilities(1.0, 0.0), LAST)
    measured = figures(original, FixedModel(probabilities(0.5, 0.5), LAST), [0, 0])
    assert measured.kl_divergence == pytest.approx(math.log(2), rel=1e-6)


def test_a_token_the_result_rules_out_is_infinitely_far() -> None:
    result = FixedModel(probabilities(0.0, 1.0), LAST)
    measured = figures(FixedModel(probabilities(0.5, 0.5), LAST), result, [0, 0])
    assert measured.kl_divergence == math.inf
    assert measured.perplexity == math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_give_nan_without_a_warning(value: float) -> None:
    measured = figures(FixedModel([0, 1], LAST), FixedModel([value, 1], LAST), [0, 1])
    assert math.isnan(measured.perplexity)
    assert math.isnan(measured.kl_divergence)
    assert math.isnan(measured.perplexity_ratio)
    assert measured.perplexity_original == pytest.approx(1 + 1 / math.e)


def test_nan_agrees_with_nothing() -> None:
    measured = figures(FixedModel([0, 1], LAST), FixedModel([0, math.nan], LAST), [0, 1])
    assert math.isnan(measured.top1_agreement)


def test_models_of_different_vocabularies_are_refused() -> None:
    with pytest.raises(OutputError, match="predicts 3 tokens and the original 2"):
        figures(FixedModel([0, 1], LAST), FixedModel([0, 1, 2], [0, 1, 2]), [0, 1])


def test_progress_counts_the_tokens_read() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.stages: list[tuple[str, float | None, str]] = []
            self.amounts: list[float] = []

        def stage(self, title: str, total: float | None = None, unit: str = ""):
            from contextlib import nullcontext

            self.stages.append((title, total, unit))
            return nullcontext(self.amounts.append)

    recorder = Recorder()
    model = FixedModel([0, 1], LAST)
    compare_language(model, model, np.zeros((3, 2), dtype=np.int64), recorder)
    assert recorder.stages == [("Comparing with the original", 6, "tokens")]
    assert recorder.amounts == [2, 2, 2]
