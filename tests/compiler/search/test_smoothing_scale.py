"""The scale is equation 4, and one that float16 can hold whatever the peaks are."""

from __future__ import annotations

import pytest
import torch

from castline.compiler.search.found_scale import LARGEST
from castline.compiler.search.smoothing_scale import smoothing_scale

ALPHAS = (0.0, 0.25, 0.5, 0.85, 1.0)


def test_the_formula_by_hand() -> None:
    activations, weights = torch.tensor([16.0, 81.0, 1.0]), torch.tensor([4.0, 1.0, 0.25])
    found = smoothing_scale(activations, weights, 0.5)
    assert found.tolist() == pytest.approx([4 / 2, 9 / 1, 1 / 0.5])
    found = smoothing_scale(activations, weights, 0.75)
    assert found.tolist() == pytest.approx([8 / 2**0.5, 27.0, 1 / 0.25**0.25])


def test_the_ends_even_out_weights_or_activations() -> None:
    activations, weights = torch.tensor([16.0, 0.5]), torch.tensor([4.0, 0.25])
    assert (weights * smoothing_scale(activations, weights, 0.0)).tolist() == [1, 1]
    assert (activations / smoothing_scale(activations, weights, 1.0)).tolist() == [1, 1]


def test_half_makes_the_peaks_of_activations_and_weights_equal() -> None:
    chance = torch.Generator().manual_seed(0)
    x, w = torch.randn(40, 12, generator=chance), torch.randn(7, 12, generator=chance)
    x[:, 3] *= 60
    s = smoothing_scale(x.abs().amax(0), w.abs().amax(0), 0.5)
    torch.testing.assert_close((x / s).abs().amax(0), (w * s).abs().amax(0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_channel_that_is_zero_on_either_side_gets_one(alpha: float) -> None:
    found = smoothing_scale(torch.tensor([0.0, 3.0, 0.0]), torch.tensor([2.0, 0.0, 0.0]), alpha)
    assert found.tolist() == [1, 1, 1]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_extreme_peaks_stay_positive_and_finite_in_float16(alpha: float) -> None:
    activations = torch.tensor([3e38, 1e-30, 1e-11, 1e30, 1e-11, 60.0])
    weights = torch.tensor([1e-11, 3e38, 1e30, 1e-38, 1e-11, 0.02])
    found = smoothing_scale(activations, weights, alpha)
    assert found.dtype == torch.float64
    assert (found >= 1 / LARGEST).all()
    assert (found <= LARGEST).all()
    for cast in (found.half(), (1 / found).half(), (7 * found).half()):
        assert torch.isfinite(cast).all()
        assert (cast > 0).all()


def test_float16_peaks_are_raised_to_a_power_in_float64() -> None:
    activations, weights = torch.tensor([6e4]).half(), torch.tensor([6e-8]).half()
    expected = (float(activations) / float(weights)) ** 0.5
    assert expected > LARGEST
    assert float(smoothing_scale(activations, weights, 0.5)) == LARGEST
    found = smoothing_scale(activations, torch.tensor([0.1]), 0.5)
    assert float(found) == pytest.approx((float(activations) / 0.1) ** 0.5, rel=1e-7)
