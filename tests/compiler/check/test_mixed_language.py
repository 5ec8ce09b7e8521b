"""Mixes are judged by the figures that the gate has for whole models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from castline.compiler.check.any_pair import opened_sides
from castline.compiler.check.mixed_language import MixedLanguage
from castline.compiler.check.mixed_pair import mixed_pair
from castline.compiler.recipes.thresholds import Thresholds
from castline.progress import SilentProgress


@pytest.fixture
def language(sides: Any, exported: Path, quantized: Path) -> MixedLanguage:
    both = sides(exported, quantized)
    _, mixed = mixed_pair(both, SilentProgress())
    return MixedLanguage(mixed, both.text.windows, Thresholds(kl_divergence=0.004))


def test_nothing_kept_is_the_result_as_the_gate_sees_it(
    language: MixedLanguage, sides: Any, exported: Path, quantized: Path
) -> None:
    with opened_sides(sides(exported, quantized)) as pair:
        whole = pair.measure(Thresholds()).language
    found = language.tried(frozenset())
    assert whole is not None
    assert found.language.perplexity_original == pytest.approx(whole.perplexity_original)
    assert found.language.kl_divergence == pytest.approx(whole.kl_divergence, rel=0.02)
    assert found.language.tokens == whole.tokens


def test_all_kept_is_the_original(language: MixedLanguage) -> None:
    found = language.tried(frozenset(range(4)))
    assert found.language.kl_divergence == pytest.approx(0, abs=1e-9)
    assert found.logits_cosine == pytest.approx(1)
    assert found.passed


def test_a_layer_kept_brings_the_mix_nearer(language: MixedLanguage) -> None:
    apart = [language.tried(frozenset(kept)).language.kl_divergence for kept in ((), (1,), (1, 2))]
    assert apart[0] > apart[1] > apart[2]
