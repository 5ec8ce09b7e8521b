"""Divergence and likelihood are what the gate's own arithmetic, written apart, says they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from castline.compiler.check.language import window_sums
from castline.compiler.search import divergence
from castline.compiler.search.divergence import divergence_sum, likelihood_sum


@pytest.mark.parametrize("elements", [divergence._ELEMENTS, 100])
def test_sums_are_those_of_the_gate(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(divergence, "_ELEMENTS", elements)
    random = np.random.default_rng(0)
    original, other = random.normal(0, 3, (2, 12, 40)).astype(np.float32)
    tokens = random.integers(0, 40, 12)
    expected = window_sums(original, other, tokens)
    ids = torch.from_numpy(tokens)
    found = torch.from_numpy(original), torch.from_numpy(other)
    assert likelihood_sum(found[0], ids) == pytest.approx(expected[0], rel=1e-5)
    assert likelihood_sum(found[1], ids) == pytest.approx(expected[1], rel=1e-5)
    assert divergence_sum(*found) == pytest.approx(expected[2], rel=1e-5)


def test_a_model_does_not_diverge_from_itself() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert divergence_sum(logits, logits) == 0


def test_a_token_of_no_probability_in_both_counts_nothing() -> None:
    # p = (1/2, 1/2, 0), q = (1/4, 3/4, 0): KL = 1/2 ln 2 + 1/2 ln 2/3, by hand.
    original = torch.tensor([[0.0, 0.0, -torch.inf]] * 2)
    other = torch.tensor([[0.0, math.log(3), -torch.inf]] * 2)
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert divergence_sum(original, other) == pytest.approx(expected, rel=1e-6)


def test_logits_that_are_no_numbers_make_it_nan() -> None:
    broken = torch.tensor([[torch.nan, 0.0]] * 2)
    assert math.isnan(divergence_sum(torch.zeros(2, 2), broken))
