"""Smoothing makes planted outliers harmless, and a search never makes anything worse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from castline.compiler.quant.scheme import ActivationScheme, WeightScheme
from castline.compiler.recipes.smoothing import Smoothing
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.site_problem import SiteProblem
from castline.compiler.search.smoothing_scale import smoothing_scale
from castline.compiler.search.smoothquant import site_kind, smooth

Problem = Callable[..., SiteProblem]
ROWS, K, N = 256, 128, 96
OUTLIERS = 60


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_outliers() -> torch.Tensor:
    """Return activations whose channels 3 and 70 are 60 times larger in every row."""
    x = normal(ROWS, K)
    x[:, [3, 70]] *= OUTLIERS
    return x


def quantizer(bits: int = 8, granularity: str = "per-tensor", dynamic: bool = False) -> Quantizer:
    weights = WeightScheme(bits, "per-channel", symmetric=True)
    return Quantizer(weights, ActivationScheme(bits, granularity, dynamic=dynamic))  # type: ignore[arg-type]


PER_TENSOR, PER_TOKEN = quantizer(6), quantizer(6, "per-token", dynamic=True)


def reference_error(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, bits: int) -> float:
    """Return the relative squared error of static per-tensor x and per-channel w, folded by s."""
    most = 2 ** (bits - 1) - 1
    smoothed, weight = x.double() / s, w.double() * s
    step = smoothed.abs().max() / most
    reaching = torch.stack([weight.amax(1) / most, -weight.amin(1) / (most + 1)])
    steps = reaching.amax(0)[:, None]  # of weights, whose grid has one code more below zero
    found = ((smoothed / step).round() * step) @ ((weight / steps).round() * steps).T
    expected = x.double() @ w.double().T
    return float((found - expected).square().sum() / expected.square().sum())


@pytest.mark.parametrize("scheme", [PER_TENSOR, PER_TOKEN], ids=["per-tensor", "per-token"])
@pytest.mark.parametrize("alpha", [0.5, "search"])
def test_planted_outliers_cost_a_third_at_most(
    problem: Problem, scheme: Quantizer, alpha: float | str
) -> None:
    site = problem(with_outliers(), normal(N, K, seed=1) / K)
    found = smooth(site, Smoothing.model_validate({"alpha": alpha}), scheme)
    assert found is not None
    assert 0 < found.error < found.error_before / 3


def test_errors_are_those_of_the_formula(problem: Problem) -> None:
    x, w = with_outliers(), normal(N, K, seed=1) / K
    found = smooth(problem(x, w), Smoothing(alpha=0.5), PER_TENSOR)
    assert found is not None
    scale = smoothing_scale(x.abs().amax(0), w.abs().amax(0), 0.5)
    torch.testing.assert_close(found.scale, scale)
    assert found.error == pytest.approx(reference_error(x, w, scale, 6), rel=1e-3)
    naive = reference_error(x, w, torch.ones(K, dtype=torch.float64), 6)
    assert found.error_before == pytest.approx(naive, rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scheme", [PER_TENSOR, PER_TOKEN], ids=["per-tensor", "per-token"])
def test_a_search_is_never_worse_than_no_smoothing(
    problem: Problem, scheme: Quantizer, seed: int
) -> None:
    x = normal(64, 32, seed=seed) * normal(32, seed=seed + 10).exp()
    x[0] *= 80  # one token with massive activations sets every channel's peak
    found = smooth(problem(x, normal(16, 32, seed=seed + 20)), Smoothing(), scheme)
    assert found is not None
    assert found.error <= found.error_before
    assert (found.alpha is None) == (found.error == found.error_before)


def test_a_search_takes_no_scale_where_none_is_best(problem: Problem) -> None:
    """Activations and weights that the grids hold exactly: nothing can be gained."""
    x = torch.tensor([[31.0, 4.0], [2.0, -31.0]])
    site = problem(x, torch.tensor([[31.0, 1.0], [-2.0, 31.0]]))
    found = smooth(site, Smoothing(), PER_TENSOR)
    assert found is not None
    assert found.alpha is None
    assert found.scale.tolist() == [1, 1]
    assert found.error == found.error_before == pytest.approx(0, abs=1e-12)


def test_a_search_is_as_good_as_every_strength_that_it_tries(problem: Problem) -> None:
    site = problem(with_outliers(), normal(N, K, seed=1) / K)
    found = smooth(site, Smoothing(), PER_TENSOR)
    assert found is not None
    assert found.alpha is not None
    fixed = [smooth(site, Smoothing(alpha=step / 10), PER_TENSOR) for step in range(11)]
    assert found.error <= min(each.error for each in fixed if each is not None)
    assert any(abs(found.alpha - step / 20) < 1e-9 for step in range(21))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_fixed_strength_is_taken_even_where_it_is_worse(problem: Problem, alpha: float) -> None:
    x = torch.tensor([[31.0, 4.0], [2.0, -31.0]])
    w = torch.tensor([[31.0, 1.0], [-2.0, 16.0]])
    found = smooth(problem(x, w), Smoothing(alpha=alpha), PER_TENSOR)
    assert found is not None
    assert found.alpha == alpha
    torch.testing.assert_close(
        found.scale, smoothing_scale(torch.tensor([31.0, 31.0]), torch.tensor([31.0, 16.0]), alpha)
    )


def test_half_makes_the_peaks_that_are_read_and_multiplied_equal(problem: Problem) -> None:
    x, weights = with_outliers(), (normal(N, K, seed=1), normal(8, K, seed=2))
    found = smooth(problem(x, *weights), Smoothing(alpha=0.5), PER_TENSOR)
    assert found is not None
    read = (x / found.scale).abs().amax(0)
    multiplied = (torch.cat(weights) * found.scale).abs().amax(0)
    torch.testing.assert_close(read, multiplied, rtol=1e-6, atol=0)
    before = x.abs().amax(0)
    assert read.max() / read.median() < (before.max() / before.median()) / 3


def test_dead_channels_keep_their_scale_and_nothing_is_lost(problem: Problem) -> None:
    x, w = with_outliers(), normal(N, K, seed=1)
    x[:, 5] = 0
    w[:, 9] = 0
    for alpha in (0.0, 0.5, 1.0):
        found = smooth(problem(x, w), Smoothing(alpha=alpha), PER_TENSOR)
        assert found is not None
        assert found.scale[[5, 9]].tolist() == [1, 1]
        assert torch.isfinite(found.scale.half()).all()
        assert torch.isfinite((1 / found.scale).half()).all()


def test_a_linear_that_stays_in_float_costs_nothing_but_counts_for_the_scale(
    problem: Problem,
) -> None:
    x, w, router = with_outliers(), normal(N, K, seed=1), 100 * normal(4, K, seed=2)
    alone = smooth(problem(x, w), Smoothing(alpha=0.5), PER_TENSOR)
    beside = smooth(problem(x, w, router, unquantized=("w1",)), Smoothing(alpha=0.5), PER_TENSOR)
    assert alone is not None
    assert beside is not None
    assert beside.error_before == alone.error_before
    assert (beside.scale < alone.scale).all()


def test_what_is_not_quantized_or_was_never_read_has_no_scale(problem: Problem) -> None:
    x, w = normal(8, 4), normal(3, 4)
    assert smooth(problem(x, w, unquantized=("w0",)), Smoothing(), PER_TENSOR) is None
    assert smooth(problem(x, w, unread=("w0",)), Smoothing(), PER_TENSOR) is None


def test_outputs_that_are_zero_have_no_error(problem: Problem) -> None:
    found = smooth(problem(normal(8, 4), torch.zeros(3, 4)), Smoothing(), PER_TENSOR)
    assert found is not None
    assert (found.alpha, found.error, found.error_before) == (None, 0, 0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("norm gain", "norm"),
        ("norm gain (1 + w)", "norm"),
        ("norm gain and bias", "norm"),
        ("rows through attention", "value"),
        ("rows through a gate", "up"),
        ("rows through ReLU", "relu"),
        ("rows through ReLU through a gate", None),
        ("norm gain through a gate", None),
        ("rows", None),
        ("", None),
    ],
)
def test_the_planners_words_for_a_site_are_the_recipes(kind: str, expected: str | None) -> None:
    assert site_kind(kind) == expected
