"""Ratios of signal to noise are those of the folded linear, and of its own rounding alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from castline.compiler.plan.decisions import PlannedLinear
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme
from castline.compiler.search.chosen_codes import ChosenCodes
from castline.compiler.search.fake_grids import FakeGrid
from castline.compiler.search.made_linears import Chosen, MadeLinears
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.site_measures import decibels, planned_linears
from castline.compiler.search.site_problem import SiteProblem

Problem = Callable[..., SiteProblem]
INT4 = WeightScheme(4, "per-tensor", symmetric=True)
STATIC = ActivationScheme(4, "per-tensor", dynamic=False)
DYNAMIC = ActivationScheme(4, "per-tensor", dynamic=True)
PER_TOKEN = ActivationScheme(4, "per-token", dynamic=True)
X = torch.tensor([[7.0, 1.4], [-3.0, 2.0]])
W = torch.tensor([[7.0, 3.4], [1.0, -2.0]])
ONES = torch.ones(2, dtype=torch.float64)


def measured(
    problem: SiteProblem,
    quantizer: Quantizer,
    scale: torch.Tensor = ONES,
    ranges: dict[str, QuantParameters] | None = None,
    kept: dict[str, str] | None = None,
    reads_float: dict[str, str] | None = None,
    chosen: Chosen | None = None,
) -> list[PlannedLinear]:
    reasons = (kept or {}, reads_float or {})
    made = MadeLinears(chosen=chosen or {})
    return list(planned_linears(problem, scale, quantizer, ranges or {}, *reasons, made))


def test_decibels_by_hand() -> None:
    assert decibels(100, 1) == pytest.approx(20)
    assert decibels(1, 10) == pytest.approx(-10)
    assert decibels(5, 0) == math.inf
    assert decibels(0, 0) == math.inf
    assert decibels(0, 1) == -math.inf


def test_the_ratio_of_the_weights_by_hand(problem: Problem) -> None:
    (found,) = measured(problem(X, W), Quantizer(INT4, None))
    signal = 49 + 3.4**2 + 1 + 4
    assert found.weight_sqnr == pytest.approx(10 * math.log10(signal / 0.4**2), rel=1e-5)


def test_the_ratio_of_the_outputs_is_that_of_both_roundings(problem: Problem) -> None:
    (found,) = measured(
        problem(X, W), Quantizer(INT4, STATIC), ranges={"x": QuantParameters(1.0, 0)}
    )
    x, w = torch.tensor([[7.0, 1.0], [-3.0, 2.0]]), torch.tensor([[7.0, 3.0], [1.0, -2.0]])
    reference = X @ W.T
    noise = (reference - x @ w.T).square().sum()
    expected = 10 * math.log10(reference.square().sum() / noise)
    assert found.output_sqnr == pytest.approx(expected, rel=1e-5)
    assert found.parameters == QuantParameters(1.0, 0)
    assert (found.weights, found.activations, found.kept) == (INT4, STATIC, None)


@pytest.mark.parametrize("scheme", [DYNAMIC, PER_TOKEN])
def test_dynamic_scales_are_in_no_plan(problem: Problem, scheme: ActivationScheme) -> None:
    (found,) = measured(problem(X, W), Quantizer(INT4, scheme))
    assert found.parameters is None
    assert found.output_sqnr is not None


def test_what_was_observed_is_divided_by_the_scale_that_the_weights_hold(problem: Problem) -> None:
    scale = torch.tensor([4.0, 0.5], dtype=torch.float64)
    folded = problem(X, W * scale.float())
    (found,) = measured(folded, Quantizer(None, STATIC), scale)
    assert found.peak_before == 7
    assert found.peak_after == 4  # of 7 / 4 and 2 / 0.5
    x = torch.tensor([[1.75, 2.8], [-0.75, 4.0]])
    step = 4 / 7
    reference = X @ W.T
    noise = (reference - ((x / step).round() * step) @ (W * scale.float()).T).square().sum()
    expected = 10 * math.log10(reference.square().sum() / noise)
    assert found.output_sqnr == pytest.approx(expected, rel=1e-5)
    assert found.weight_sqnr is None


def test_what_is_exact_has_an_infinite_ratio(problem: Problem) -> None:
    (found,) = measured(problem(X, torch.tensor([[7.0, -2.0]])), Quantizer(INT4, None))
    assert found.weight_sqnr == found.output_sqnr == math.inf


def test_a_linear_that_stays_in_float_has_its_reason_and_its_peaks(problem: Problem) -> None:
    site = problem(X, W, W, unquantized=("w1",))
    quantized, kept = measured(site, Quantizer(INT4, STATIC), kept={"w1": "it chooses experts"})
    assert quantized.kept is None
    assert kept == PlannedLinear("w1", None, None, None, "it chooses experts", None, None, 7, 7)


def test_a_linear_that_reads_float_is_measured_by_its_weights_alone(problem: Problem) -> None:
    both = Quantizer(INT4, PER_TOKEN)
    (found,) = measured(problem(X, W), both, reads_float={"w0": "it is of an expert"})
    (weights_only,) = measured(problem(X, W), Quantizer(INT4, None))
    assert (found.weights, found.activations) == (INT4, None)
    assert found.kept == "it is of an expert"
    assert found.output_sqnr == weights_only.output_sqnr
    (kept,) = measured(problem(X, W), both, kept={"w0": "a"}, reads_float={"w0": "b"})
    assert (kept.weights, kept.kept) == (None, "a")


def test_a_linear_that_was_never_read_has_no_ratio_of_outputs(problem: Problem) -> None:
    (found,) = measured(problem(X, W, unread=("w0",)), Quantizer(INT4, PER_TOKEN))
    assert found.output_sqnr is None
    assert (found.peak_before, found.peak_after) == (0, 0)
    assert found.weight_sqnr is not None


def test_a_stack_is_one_linear_with_the_noise_of_all_its_matrices(problem: Problem) -> None:
    site = problem(X, W, 2 * W)
    stack = SiteProblem(
        site.site,
        tuple(
            type(one)("stack", expert, one.weight, one.entries, one.observed, quantized=True)
            for expert, one in enumerate(site.linears)
        ),
    )
    (found,) = measured(stack, Quantizer(INT4, None))
    (single,) = measured(problem(X, W), Quantizer(INT4, None))
    assert found.name == "stack"
    assert found.weight_sqnr == pytest.approx(single.weight_sqnr, rel=1e-5)


def test_chosen_codes_are_measured_and_not_the_nearest(problem: Problem) -> None:
    """The codes stand for twice the weights: all of the signal is lost."""
    grid = FakeGrid(torch.ones(2, 1, 1), None, (-8, 7))
    chosen: Chosen = {("w0", None): ChosenCodes((2 * W).reshape(2, 1, 2), grid, clipped=0.25)}
    (found,) = measured(problem(X, W), Quantizer(INT4, None), chosen=chosen)
    assert found.weight_sqnr == pytest.approx(0, abs=1e-4)
    assert found.output_sqnr == pytest.approx(0, abs=1e-4)
    assert (found.clipped, found.unreached) == (0.25, ())


def test_a_stack_names_its_unreached_experts_and_the_mean_share_of_clipped_ranges(
    problem: Problem,
) -> None:
    site = problem(X, W, W, W, unread=("w1",))
    stack = SiteProblem(
        site.site,
        tuple(replace(one, name="stack", expert=e) for e, one in enumerate(site.linears)),
    )
    grid = FakeGrid(torch.ones(2, 1, 1), None, (-8, 7))
    shares = [0.5, None, 1.0]
    chosen: Chosen = {
        ("stack", expert): ChosenCodes(W.reshape(2, 1, 2), grid, clipped)
        for expert, clipped in enumerate(shares)
    }
    (found,) = measured(stack, Quantizer(INT4, None), chosen=chosen)
    assert found.unreached == (1,)
    assert found.clipped == 0.75
