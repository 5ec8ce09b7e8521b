"""The pieces that are kept are enough, none can be left out, and what cannot pass is refused."""

from __future__ import annotations

import math

import pytest

from castline.compiler.check.gate import judge
from castline.compiler.check.kept_pieces import Kept, KeptPieces, Tried, kept_pieces
from castline.compiler.check.language import LanguageFigures
from castline.compiler.recipes.thresholds import Thresholds
from castline.errors import RecipeError


def found(harm: list[float], limit: float, together: float = 0.0) -> KeptPieces:
    """Search pieces that harm so much each; 0 and 1 harm `together` more if both are quantized."""
    thresholds = Thresholds(kl_divergence=limit)

    def measure(kept: Kept) -> Tried:
        quantized = set(range(len(harm))) - kept
        divergence = sum(harm[unit] for unit in quantized)
        divergence += together if {0, 1} <= quantized else 0.0
        language = LanguageFigures(10.0, 11.0, divergence, 0.9, 100)
        verdicts = judge(thresholds, {"kl_divergence": divergence})
        return Tried(kept, language, 1.0, verdicts)

    return kept_pieces(range(len(harm)), measure)


def test_a_gate_that_passes_needs_nothing_and_one_run() -> None:
    result = found([0.1, 0.2], limit=0.5)
    assert (result.chosen.kept, result.alone, result.mixes) == (frozenset(), (), 1)


def test_the_one_layer_that_does_the_harm_is_kept() -> None:
    result = found([0.01, 0.02, 5.0, 0.03, 0.01, 0.02], limit=0.1)
    assert result.chosen.kept == {2}
    assert result.alone[0] == (2, 5.0)


def test_none_of_the_kept_can_be_left_out_and_that_was_measured() -> None:
    result = found([0.5, 0.3, 0.2, 0.1, 0.05], limit=0.17)
    assert result.chosen.passed
    assert result.chosen.kept == {0, 1, 2}
    assert {next(iter(result.chosen.kept - one.kept)) for one in result.without} == {0, 1, 2}
    assert not any(one.passed for one in result.without)


def test_what_the_ranking_took_too_many_of_is_left_out_again() -> None:
    # By themselves 2 and 3 are the worst, but quantizing 0 and 1 together does more than all.
    result = found([0.1, 0.1, 0.3, 0.25], limit=0.62, together=2.0)
    assert result.chosen.passed
    assert len(result.chosen.kept) == 2
    assert not any(one.passed for one in result.without)


def test_a_divergence_that_is_no_number_is_the_worst() -> None:
    result = found([0.1, math.nan, 0.2], limit=0.5)
    assert result.chosen.kept == {1}
    assert result.alone[0][0] == 1


def test_thresholds_that_float_itself_misses_are_refused() -> None:
    def measure(kept: Kept) -> Tried:
        verdicts = judge(Thresholds(kl_divergence=0.1), {"kl_divergence": 0.4})
        return Tried(kept, LanguageFigures(10.0, 11.0, 0.4, 0.9, 100), 1.0, verdicts)

    with pytest.raises(RecipeError, match=r"all of them do not: kl divergence is 0\.4"):
        kept_pieces(range(3), measure)
