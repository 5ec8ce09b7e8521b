"""AWQ protects what large activations multiply, and never takes a scale that is worse than none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from castline.compiler.quant.scheme import GroupSize, WeightScheme
from castline.compiler.recipes.scaling import Scaling
from castline.compiler.search import awq
from castline.compiler.search.awq import Awq, Candidate, centred
from castline.compiler.search.found_scale import LARGEST, FoundScale
from castline.compiler.search.inspection import InspectedModule
from castline.compiler.search.linear_calls import LinearCall
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.second_moments import SecondMoments, first_readers
from castline.compiler.search.site_problem import SiteProblem

Problem = Callable[..., SiteProblem]
ROWS, K, N = 200, 128, 48


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_outliers() -> torch.Tensor:
    """Return activations whose channels 3 and 70 are 20 times larger in every row."""
    x = normal(ROWS, K)
    x[:, [3, 70]] *= 20
    return x


def int3(group: GroupSize = 64, symmetric: bool = False) -> Quantizer:
    return Quantizer(WeightScheme(3, group, symmetric), None)


def searched(
    problem: SiteProblem,
    quantizer: Quantizer | None = None,
    modules: dict[str, InspectedModule] | None = None,
    inspected: str | None = None,
    **fields: Any,
) -> FoundScale | None:
    moments = SecondMoments(first_readers([problem.site]), lambda call: call.answer())
    for one in problem.linears:
        if one.observed is not None:
            call = LinearCall(
                one.name, one.expert, one.observed.rows, one.weight, None, transposed=False
            )
            moments(call)
    search = Awq(Scaling(**fields), quantizer or int3(), moments, modules or {})
    return search(problem, inspected)


def found(*args: Any, **fields: Any) -> FoundScale:
    best = searched(*args, **fields)
    assert best is not None
    return best


@pytest.fixture
def tried_at_1(monkeypatch: pytest.MonkeyPatch) -> Callable[[SiteProblem], torch.Tensor]:
    """Return the scale of the exponent 1, whatever it is worth."""

    def taken(best: FoundScale, scale: torch.Tensor, alpha: float, error: float) -> FoundScale:
        return replace(best, scale=scale, alpha=alpha, error=error)

    monkeypatch.setattr(FoundScale, "or_better", taken)
    return lambda problem: found(problem, steps=1).scale


def reference_error(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, group: int) -> float:
    """Return |x (Q(w s) / s - w)^T|^2 / |x w^T|^2 with 3 bits and zero-points, in float64."""
    scaled = (w.double() * s).reshape(-1, group)
    low, high = scaled.amin(1, keepdim=True).clamp(max=0), scaled.amax(1, keepdim=True).clamp(min=0)
    step = (high - low) / 7
    zero = (-low / step).round().clamp(0, 7)
    codes = ((scaled / step).round() + zero).clamp(0, 7)
    rounded = ((codes - zero) * step).reshape(w.shape) / s
    apart = x.double() @ (rounded - w).T
    return float(apart.square().sum() / (x.double() @ w.double().T).square().sum())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [32, 64, 128, "per-channel"])
def test_planted_outliers_cost_less(problem: Problem, group: GroupSize, symmetric: bool) -> None:
    best = found(problem(with_outliers(), normal(N, K, seed=1)), int3(group, symmetric))
    assert best.alpha is not None
    assert best.error < 0.6 * best.error_before
    assert best.scale[[3, 70]].min() > best.scale.median()


def test_the_error_before_is_that_of_rounding_to_nearest(problem: Problem) -> None:
    x, w = with_outliers(), normal(N, K, seed=1)
    best = found(problem(x, w))
    naive = reference_error(x, w, torch.ones(K, dtype=torch.float64), 64)
    assert best.error_before == pytest.approx(naive, rel=1e-4)
    assert best.error == pytest.approx(reference_error(x, w, best.scale, 64), rel=1e-3)


def test_scales_are_the_centred_powers_of_the_mean_magnitude(problem: Problem) -> None:
    x = with_outliers()
    best = found(problem(x, normal(N, K, seed=1)))
    assert best.alpha is not None
    power = x.double().abs().mean(0) ** best.alpha
    expected = power / (power.max() * power.min()).sqrt()
    torch.testing.assert_close(best.scale, expected, rtol=1e-5, atol=0)
    assert best.scale.max() * best.scale.min() == pytest.approx(1)


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (4, 4), (20, 8)])
@pytest.mark.parametrize("weight_aware", [False, True])
def test_exponents_end_at_1_and_some_are_tried_beside_no_scale(
    problem: Problem, steps: int, count: int, weight_aware: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[list[float]] = []
    tried: list[float] = []
    families = Awq._families

    def listed(*args: Any) -> list[list[Candidate]]:
        found = families(*args)
        offered.extend([alpha for alpha, _ in family] for family in found)
        assert all(torch.isfinite(scale).all() for family in found for _, scale in family)
        return found

    def noted(best: FoundScale, _scale: torch.Tensor, alpha: float, error: float) -> FoundScale:
        tried.append(alpha)
        assert error >= 0
        return best

    monkeypatch.setattr(Awq, "_families", listed)
    monkeypatch.setattr(FoundScale, "or_better", noted)
    site = problem(with_outliers(), normal(N, K, seed=1))
    best = found(site, steps=steps, weight_aware=weight_aware)
    alphas = [step / steps for step in range(1, steps + 1)]
    assert offered[0] == pytest.approx(alphas)
    assert offered[1:] == ([pytest.approx([0, *alphas])] if weight_aware else [])
    assert len(tried) <= (2 * count + 1 if weight_aware else count)
    assert set(tried) <= {alpha for family in offered for alpha in family}
    assert best.alpha is None
    assert (best.scale == 1).all()


def test_what_is_found_is_hardly_worse_than_the_best_of_all_exponents(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [problem(with_outliers(), normal(N, K, seed=seed)) for seed in range(1, 5)]
    some = [found(task).error for task in tasks]
    monkeypatch.setattr(awq, "_STRIDE", 1)
    every = [found(task).error for task in tasks]
    assert all(1 <= one / best < 1.1 for one, best in zip(some, every, strict=True))


class Bowl:
    """Errors grow with the distance from a place."""

    def __init__(self, best: int) -> None:
        self.best = best
        self.tried: list[int] = []

    def error(self, scale: torch.Tensor) -> float:
        self.tried.append(int(scale))
        return abs(int(scale) - self.best)


@pytest.mark.parametrize("count", [20, 21])
def test_the_least_error_is_found_wherever_it_is(count: int) -> None:
    scales = [torch.tensor(place) for place in range(count)]
    for best in range(count):
        bowl = Bowl(best)
        errors = awq._errors(scales, bowl)
        assert min(errors, key=lambda place: errors[place]) == best
        assert len(bowl.tried) == len(set(bowl.tried)) <= 9
        assert errors == {place: abs(place - best) for place in bowl.tried}


def test_scales_between_two_poor_ones_are_not_tried() -> None:
    bowl = Bowl(8)
    awq._errors([torch.tensor(place) for place in range(20)], bowl)
    assert bowl.tried == [1, 5, 9, 13, 17, 7, 8, 10]


def test_some_outputs_stand_for_all_where_a_linear_is_judged_by_its_own(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third output: those alone are rounded, compared, and tell the error."""
    x, weight = with_outliers(), normal(N, K, seed=1)
    few = found(problem(x, weight[::3].clone()))
    monkeypatch.setattr(awq, "_OUTPUTS", N // 3)
    best = found(problem(x, weight))
    assert (best.alpha, best.error, best.error_before) == (few.alpha, few.error, few.error_before)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weight_aware", [False, True])
def test_a_search_is_never_worse_than_no_scale(
    problem: Problem, seed: int, weight_aware: bool
) -> None:
    x = normal(64, 32, seed=seed) * normal(32, seed=seed + 10).exp()
    weight = normal(16, 32, seed=seed + 20) * normal(32, seed=seed + 30).exp()
    best = found(problem(x, weight), int3(32), weight_aware=weight_aware)
    assert best.error <= best.error_before
    assert (best.alpha is None) == (best.error == best.error_before)


def test_weights_that_the_grid_holds_have_no_scale(problem: Problem) -> None:
    weight = (normal(N, K, seed=1) * 2).round().clamp(-3, 4)
    weight[:, ::32], weight[:, 1::32] = -3, 4  # every group spans the grid
    best = found(problem(with_outliers(), weight), int3(32))
    assert best.alpha is None
    assert best.error == best.error_before == pytest.approx(0, abs=1e-12)


def test_channels_of_one_magnitude_have_no_scale(problem: Problem) -> None:
    signs = normal(ROWS, K).sign()
    best = found(problem(signs * 3, normal(N, K, seed=1)))
    assert best.alpha is None
    assert (best.scale == 1).all()


def test_a_single_huge_token_hardly_moves_the_scale(
    problem: Problem, tried_at_1: Callable[[SiteProblem], torch.Tensor]
) -> None:
    """The statistic is the mean; by the maximum, channel 9 would be the largest by far."""
    x = with_outliers()
    spiked = x.clone()
    spiked[17, 9] = 100 * x[:, 9].abs().mean()
    assert spiked[:, 9].abs().max() > x[:, 3].abs().max()
    before, after = (tried_at_1(problem(each, normal(N, K, seed=1))) for each in (x, spiked))
    others = torch.arange(K) != 9
    torch.testing.assert_close(after[others], before[others])
    assert 1 < after[9] / before[9] < 2
    assert after[9] < after[3] / 5


def test_the_sign_of_what_is_read_does_not_count(
    problem: Problem, tried_at_1: Callable[[SiteProblem], torch.Tensor]
) -> None:
    x, w = with_outliers(), normal(N, K, seed=1)
    turned = tried_at_1(problem(x * normal(K, seed=4).sign(), w))
    assert torch.equal(turned, tried_at_1(problem(x, w)))


@pytest.mark.parametrize("weight_aware", [False, True])
def test_channels_that_are_always_zero_keep_their_scale(
    problem: Problem, weight_aware: bool
) -> None:
    x = with_outliers()
    x[:, [5, 64]] = 0
    best = found(problem(x, normal(N, K, seed=1)), weight_aware=weight_aware)
    assert best.alpha is not None
    assert best.scale[[5, 64]].tolist() == [1, 1]
    assert torch.isfinite(best.scale).all()


def test_a_text_of_zeros_has_no_scale(problem: Problem) -> None:
    best = found(problem(torch.zeros(4, K), normal(N, K, seed=1)), weight_aware=True)
    assert (best.alpha, best.error, best.error_before) == (None, 0, 0)


@pytest.mark.parametrize("weight_aware", [False, True])
def test_scales_of_extreme_channels_stay_within_float16(
    problem: Problem, weight_aware: bool
) -> None:
    x, w = normal(ROWS, K), normal(N, K, seed=1)
    x[:, 0], x[:, 1] = 1e-30, 1e30
    w[:, 1] = 0  # so that the huge one says nothing of the output
    w[:, 2] = 0
    best = found(problem(x, w), weight_aware=weight_aware, steps=4)
    assert torch.isfinite(best.scale).all()
    assert best.scale.max() <= LARGEST
    assert best.scale.min() >= 1 / LARGEST
    assert torch.isfinite((best.scale * 7).half()).all()


def test_centring_by_hand() -> None:
    assert centred(torch.tensor([1.0, 4.0, 16.0])).tolist() == pytest.approx([0.25, 1, 4])
    assert centred(torch.tensor([0.0, 9.0, 0.0])).tolist() == [1, 1, 1]
    assert centred(torch.zeros(2)).tolist() == [1, 1]
    tiny = torch.tensor([1e-300, 1e-290], dtype=torch.float64)  # their product underflows
    assert centred(tiny).tolist() == pytest.approx([2.0**-13, 2.0**13])


def test_weight_aware_scales_are_among_the_candidates(problem: Problem) -> None:
    """Weights of very different columns: there dividing by their size helps more."""
    x, w = normal(ROWS, K), normal(N, K, seed=1) * (2 * normal(K, seed=5)).exp()
    alone, aware = (found(problem(x, w), weight_aware=each) for each in (False, True))
    assert aware.error <= alone.error
    assert aware.error < 0.98 * aware.error_before


def test_weight_aware_scales_are_autoawqs(problem: Problem) -> None:
    x, w = with_outliers(), normal(N, K, seed=1) * (2 * normal(K, seed=5)).exp()
    best = found(problem(x, w), weight_aware=True)
    assert best.alpha is not None
    groups = w.double().abs().reshape(N, -1, 64)
    size = (groups / groups.amax(-1, keepdim=True)).reshape(N, K).mean(0)
    magnitude = x.double().abs().mean(0)
    plain = magnitude**best.alpha
    aware = plain / (size ** (1 - best.alpha) + 1e-4)
    candidates = [each / (each.max() * each.min()).sqrt() for each in (plain, aware)]
    assert any(torch.allclose(best.scale, each, rtol=1e-4) for each in candidates)


def test_linears_of_a_site_share_the_scale_and_their_errors_add(problem: Problem) -> None:
    x, w, other = with_outliers(), normal(N, K, seed=1), 3 * normal(8, K, seed=2)
    both = found(problem(x, w, other))
    joined = found(problem(x, torch.cat([w, other])))
    assert both.alpha == joined.alpha
    torch.testing.assert_close(both.scale, joined.scale)
    assert both.error == pytest.approx(joined.error, rel=1e-5)


def test_a_linear_that_stays_in_float_has_no_error(problem: Problem) -> None:
    x, w, router = with_outliers(), normal(N, K, seed=1), 100 * normal(4, K, seed=2)
    alone = found(problem(x, w))
    beside = found(problem(x, w, router, unquantized=("w1",)))
    assert (beside.alpha, beside.error) == (alone.alpha, alone.error)
    torch.testing.assert_close(beside.scale, alone.scale)


def test_what_is_not_quantized_or_was_never_read_has_no_scale(problem: Problem) -> None:
    x, w = normal(8, 64), normal(3, 64)
    assert searched(problem(x, w, unquantized=("w0",))) is None
    assert searched(problem(x, w, unread=("w0",))) is None


def test_the_output_of_the_inspected_module_is_what_counts(problem: Problem) -> None:
    """The module doubles what the channels without outliers answer, and drops all else."""
    x, w = with_outliers(), normal(N, K, seed=1)
    weight = torch.nn.Parameter(w, requires_grad=False)
    select = torch.zeros(N)
    select[:4] = 2

    def run() -> torch.Tensor:
        return torch.nn.functional.linear(x, weight) * select

    module = InspectedModule("mlp", run, {"w0": weight}, run())
    best = found(problem(x, w), None, {"mlp": module}, "mlp")
    assert best.inspected == "mlp"
    only = found(problem(x, w[:4]))
    assert only.inspected is None
    assert best.error == pytest.approx(only.error, rel=1e-4)
    assert best.error_before == pytest.approx(only.error_before, rel=1e-4)


def test_what_is_searched_stays_as_it_is(problem: Problem) -> None:
    x, w = with_outliers(), normal(N, K, seed=1)
    kept = x.clone(), w.clone()
    found(problem(x, w), weight_aware=True)
    assert torch.equal(x, kept[0])
    assert torch.equal(w, kept[1])
