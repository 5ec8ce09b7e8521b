"""Outliers of a site are taken apart where that brings its outputs nearer to the float ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.graph.folds.site import Consumer, Site
from castline.compiler.quant.channel_map import ChannelMap, identity
from castline.compiler.quant.scheme import ActivationScheme, WeightScheme
from castline.compiler.recipes.reassembly import Reassembly
from castline.compiler.search.channel_matching import copies_of, further_copies
from castline.compiler.search.inspection import InspectedModule, inspecting
from castline.compiler.search.linear_calls import LinearCall, LinearCalls
from castline.compiler.search.observation import Observations, Observed
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.reassembly import FoundReassembly, reassemble, thresholds
from castline.compiler.search.second_moments import SecondMoments, first_readers
from castline.compiler.search.site_problem import ReadingLinear, SiteProblem, site_problem

Problem = Callable[..., SiteProblem]
ROWS, K, N = 200, 64, 24


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_outliers() -> torch.Tensor:
    """Return activations whose channels 3 and 40 are far larger in every row."""
    x = normal(ROWS, K)
    x[:, [3, 40]] *= torch.tensor([25.0, 12.0])
    return x


def w4a4(granularity: Any = "per-token", *, symmetric: bool = False) -> Quantizer:
    activations = ActivationScheme(4, granularity, dynamic=True, symmetric=symmetric)
    return Quantizer(WeightScheme(4, "per-channel", symmetric), activations)


def searched(
    problem: SiteProblem,
    quantizer: Quantizer | None = None,
    module: InspectedModule | None = None,
    **fields: Any,
) -> FoundReassembly | None:
    rows = [
        one.observed.rows
        for one in problem.linears
        if one.observed is not None and (one.expert is not None or one is problem.linears[0])
    ]
    k = problem.linears[0].weight.shape[1]
    second = sum((x.T @ x for x in rows), torch.zeros(k, k))
    return reassemble(problem, quantizer or w4a4(), second, Reassembly(**fields), module)


def found(*args: Any, **fields: Any) -> FoundReassembly:
    best = searched(*args, **fields)
    assert best is not None
    return best


def codes(values: np.ndarray) -> np.ndarray:
    """Return each row rounded to 16 levels from its least to its largest, in float64."""
    low = values.min(axis=1, keepdims=True).clip(max=0)
    step = (values.max(axis=1, keepdims=True).clip(min=0) - low) / 15
    zero = np.rint(-low / step)
    return (np.clip(np.rint(values / step) + zero, 0, 15) - zero) * step


def reference_error(channels: ChannelMap, x: torch.Tensor, *weights: torch.Tensor) -> float:
    """Return |Q(x') Q(W')^T - x W^T|^2 / |x W^T|^2, 4 bits with zero-points, in float64."""
    wide, error, whole = x.double().numpy(), 0.0, 0.0
    for weight in (each.double().numpy() for each in weights):
        expected = wide @ weight.T
        product = codes(channels.of_values(wide)) @ codes(channels.of_weights(weight)).T
        error += ((product - expected) ** 2).sum()
        whole += (expected**2).sum()
    return float(error / whole)


def test_the_error_is_that_of_the_quantized_outputs(problem: Problem) -> None:
    x, w, other = with_outliers(), normal(N, K, seed=1), 3 * normal(8, K, seed=2)
    best = found(problem(x, w, other))
    assert best.error == pytest.approx(reference_error(best.channels, x, w, other), rel=2e-3)
    assert best.error_before == pytest.approx(reference_error(identity(K), x, w, other), rel=2e-3)


def test_outliers_cost_far_less_once_they_are_taken_apart(problem: Problem) -> None:
    best = found(problem(with_outliers(), normal(N, K, seed=1)))
    assert best.error < 0.6 * best.error_before
    assert set(np.flatnonzero(np.bincount(best.channels.gather) > 1)) <= {3, 40}
    assert best.channels.disassembled > 0


@pytest.mark.parametrize("metric", ["merge-error", "signed-sums"])
@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.5])
def test_as_many_are_merged_as_are_needed_and_the_ratio_allows(
    problem: Problem, metric: str, ratio: float
) -> None:
    x = with_outliers()
    best = found(problem(x, normal(N, K, seed=1)), ratio=ratio, metrics=(metric,))
    copies = copies_of(x.abs().amax(dim=0).numpy(), best.threshold)
    assert 0 < len(best.channels.place) == further_copies(copies) <= ratio * K
    assert (
        np.bincount(best.channels.gather, minlength=K)[[3, 40]].tolist() == copies[[3, 40]].tolist()
    )
    outliers = best.channels.of_values(x.numpy())[:, np.isin(best.channels.gather, [3, 40])]
    assert np.abs(outliers).max() <= best.threshold * (1 + 1e-6)
    assert best.metric == metric


def test_the_better_of_both_distances_is_taken(problem: Problem) -> None:
    for seed in range(3):
        asked = problem(with_outliers(), normal(N, K, seed=seed))
        alone = [found(asked, metrics=(each,)) for each in ("merge-error", "signed-sums")]
        both = found(asked)
        assert both.error == min(each.error for each in alone)
        assert both.metric == min(alone, key=lambda each: each.error).metric


def test_more_thresholds_are_not_worse(problem: Problem) -> None:
    asked = problem(with_outliers(), normal(N, K, seed=1))
    errors = [found(asked, steps=steps).error for steps in (1, 2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_the_same_is_found_again(problem: Problem) -> None:
    first, second = (found(problem(with_outliers(), normal(N, K, seed=1))) for _ in range(2))
    assert (first.threshold, first.metric, first.error) == (
        second.threshold,
        second.metric,
        second.error,
    )
    for name in ("gather", "scale", "place", "channel", "channel_scale"):
        np.testing.assert_array_equal(getattr(first.channels, name), getattr(second.channels, name))


def test_channels_stay_where_taking_apart_does_harm(problem: Problem) -> None:
    """Eight bits lose less by outliers than merging unlike channels costs."""
    eight = Quantizer(
        WeightScheme(8, "per-channel", symmetric=True),
        ActivationScheme(8, "per-token", dynamic=True),
    )
    assert searched(problem(normal(ROWS, K), normal(N, K, seed=1)), eight) is None


def test_what_is_zero_throughout_stays(problem: Problem) -> None:
    assert searched(problem(torch.zeros(8, K), normal(N, K))) is None


def test_what_is_not_quantized_or_was_never_read_stays(problem: Problem) -> None:
    x, w = with_outliers(), normal(N, K)
    assert searched(problem(x, w, unquantized=("w0",))) is None
    assert searched(problem(x, w, unread=("w0",))) is None


def test_a_linear_that_stays_in_float_is_no_part_of_it(problem: Problem) -> None:
    x, w, router = with_outliers(), normal(N, K, seed=1), 100 * normal(4, K, seed=2)
    alone = found(problem(x, w))
    beside = found(problem(x, w, router, unquantized=("w1",)))
    assert (beside.threshold, beside.error) == (alone.threshold, alone.error)
    np.testing.assert_array_equal(beside.channels.place, alone.channels.place)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_scale_that_all_tokens_share_is_of_what_stands_at_the_places(
    problem: Problem, symmetric: bool
) -> None:
    best = found(
        problem(with_outliers(), normal(N, K, seed=1)), w4a4("per-tensor", symmetric=symmetric)
    )
    assert best.error < 0.7 * best.error_before


def test_experts_share_one_reassembly() -> None:
    """The outlier of each is taken apart for both; the third was never reached."""
    rows = [normal(ROWS, K, seed=seed) for seed in range(2)]
    rows[0][:, 3] *= 25
    rows[1][:, 40] *= 25
    weights = [normal(N, K, seed=seed + 5) for seed in range(3)]
    linears = tuple(
        ReadingLinear(
            "stack",
            expert,
            weights[expert],
            torch.arange(K),
            Observed(x.amin(dim=0), x.amax(dim=0), [x]) if x is not None else None,
            quantized=True,
        )
        for expert, x in enumerate([*rows, None])
    )
    consumer = Consumer("stack", "stack", np.arange(K))
    site = Site("x", "gain", "norm gain", (consumer,), (), K, None)
    best = found(SiteProblem(site, linears), ratio=0.4)
    assert best.channels.disassembled == 2
    error = whole = 0.0
    for x, w in zip(rows, weights, strict=False):
        output = float((x.double() @ w.double().T).square().sum())
        error += reference_error(best.channels, x, w) * output
        whole += output
    assert best.error == pytest.approx(error / whole, rel=2e-3)
    assert best.error < best.error_before


def test_the_output_of_the_inspected_module_is_what_counts(problem: Problem) -> None:
    """The module drops some outputs; a router and a linear of its own stay in float there."""
    x, w, router = with_outliers(), normal(N, K, seed=1), normal(1, K, seed=4)
    stored = {"w0": w, "w1": router, "down": normal(3, N, seed=2)}
    parameters = {name: torch.nn.Parameter(each, False) for name, each in stored.items()}
    select, bias = torch.zeros(N), normal(N, seed=3)
    select[:4] = 2

    def run() -> torch.Tensor:
        hidden = torch.nn.functional.linear(x, parameters["w0"], bias) * select
        chance = torch.nn.functional.linear(x, parameters["w1"]).sigmoid()
        return torch.nn.functional.linear(hidden * chance, parameters["down"])

    asked = problem(x, w, router, unquantized=("w1",))
    best = found(asked, None, InspectedModule("mlp", run, parameters, run()))
    down, chance = stored["down"].double() * select, (x @ router.T).sigmoid()
    expected = chance * (x.double() @ w.double().T + bias) @ down.T

    def error(channels: ChannelMap) -> float:
        values, weight = (
            channels.of_values(x.double().numpy()),
            channels.of_weights(w.double().numpy()),
        )
        product = torch.from_numpy(codes(values) @ codes(weight).T)
        apart = chance * (product + bias) @ down.T - expected
        return float(apart.square().sum() / expected.square().sum())

    assert best.error == pytest.approx(error(best.channels), rel=2e-3)
    assert best.error_before == pytest.approx(error(identity(K)), rel=2e-3)
    assert best.error < best.error_before


def test_thresholds_lie_in_equal_ratios_down_to_the_least_that_fits() -> None:
    peaks = np.abs(normal(400, seed=4).numpy()) + 0.01
    peaks[7] = 100.0
    settings = Reassembly(ratio=0.1, steps=12)
    tried = thresholds(peaks, settings)
    values = np.array([threshold for threshold, _ in tried])
    extra = [further_copies(copies) for _, copies in tried]
    assert extra == sorted(set(extra))
    assert extra[0] > 0
    assert extra[-1] <= 40 < further_copies(copies_of(peaks, values[-1] * (1 - 1e-6)))
    steps = np.log(100 / values) / np.log(100 / values[-1]) * 12
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)


def test_thresholds_leave_room_for_what_is_merged() -> None:
    """Outliers stand at even places, of which too few are left to be merged for more copies."""
    peaks = np.where(np.arange(10) % 2 == 0, 8.0, 1.0)
    peaks[4] = 1.0
    assert thresholds(peaks, Reassembly(ratio=0.5, steps=20)) == []
    peaks[[0, 2]] = 1.0
    tried = thresholds(peaks, Reassembly(ratio=0.5, steps=20))
    assert [further_copies(copies) for _, copies in tried] == [2]


def test_zeros_have_no_thresholds() -> None:
    assert thresholds(np.zeros(6), Reassembly()) == []


def test_what_is_searched_stays_as_it_is(problem: Problem) -> None:
    x, w = with_outliers(), normal(N, K, seed=1)
    kept = x.clone(), w.clone()
    found(problem(x, w))
    assert torch.equal(x, kept[0])
    assert torch.equal(w, kept[1])


@pytest.mark.parametrize(
    ("name", "linear", "path"),
    [
        ("llama", "model.layers.0.mlp.gate_proj.weight", "mlp"),
        ("mixtral", "model.layers.0.mlp.experts.gate_up_proj", "mlp"),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", "attn"),
    ],
)
def test_an_outlier_of_a_block_is_taken_apart_and_only_what_is_quantized_reads_the_places(
    trial: Callable[..., Any], w8a8: Callable[..., Any], name: str, linear: str, path: str
) -> None:
    kept = {"model.layers.0.mlp.gate.weight": "it chooses experts"}
    with trial(name, w8a8(), kept) as block:
        site = next(s for s in block.sites if linear in [one.linear for one in s.consumers])
        block.parameters[site.producer].data[5] *= 40
        observations = Observations(1, 0)
        moments = SecondMoments(first_readers(block.sites), observations)
        with (
            inspecting(block.model.blocks[0], {path}, block.parameters) as modules,
            LinearCalls(block.parameters, moments),
        ):
            block.run()
        asked = site_problem(site, block.parameters, observations, kept)
        readers = {moments.first_of[one.name] for one in asked.linears if one.quantized}
        second = sum(each.second for (reader, _), each in moments.seen.items() if reader in readers)
        best = reassemble(asked, w4a4(), second, Reassembly(ratio=0.5), modules[path])
        assert best is not None
        reference = modules[path].run()

        def error(channels: ChannelMap) -> float:
            def answer(call: LinearCall) -> torch.Tensor:
                if call.name in kept or all(call.name != one.linear for one in site.consumers):
                    return call.answer()
                values = torch.from_numpy(channels.of_values(call.x.numpy()))
                weight = torch.from_numpy(channels.of_weights(call.weight.numpy()))
                return call.answer(w4a4().read(values, None), w4a4().weight(weight))

            return modules[path].error_with(answer, reference)

        assert best.error == pytest.approx(error(best.channels), rel=1e-4)
        assert best.error_before == pytest.approx(error(identity(len(second))), rel=1e-4)
    assert (best.channels.gather == 5).sum() > 1
    assert best.error < 0.8 * best.error_before
