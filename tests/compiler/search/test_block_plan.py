"""A block with folded scales computes what it computed, and says what was not folded and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.plan.decisions import PlannedSite
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search import block_plan
from castline.compiler.search.block_plan import BlockSearch, SiteDecision

TOKENS = np.random.default_rng(0).integers(3, 100, (4, 12))
EVERY_SITE = {"alpha": 0.5, "sites": ["norm", "value", "up", "relu"]}
FAMILIES = ["llama", "qwen3_moe", "gemma", "opt", "falcon, new decoder"]
Recipes = Callable[..., Recipe]


def by_kind(decisions: tuple[SiteDecision, ...]) -> dict[str, PlannedSite]:
    return {one.planned.kind: one.planned for one in decisions}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.85])
def test_a_folded_block_computes_what_it_did(
    trial: Callable[..., Any], w8a8: Recipes, name: str, alpha: float
) -> None:
    recipe = w8a8(smoothing=EVERY_SITE | {"alpha": alpha})
    with trial(name, recipe) as tried:
        decisions = tried.fold()
        after = tried.run()
        folded = {
            edit.parameter
            for one in decisions
            if one.planned.scale is not None
            for edit in one.problem.site.edits
        }
        assert tried.changed == folded
    assert any(one.planned.scale is not None for one in decisions)
    assert (after - tried.before).abs().max() <= 1e-5 * tried.before.abs().max()


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("llama", {"norm gain", "rows through attention", "rows through a gate"}),
        ("gemma", {"norm gain (1 + w)", "rows through attention", "rows through a gate"}),
        ("opt", {"norm gain and bias", "rows through attention", "rows through ReLU"}),
        ("falcon, new decoder", {"norm gain and bias", "rows through attention"}),
    ],
)
def test_every_site_that_the_recipe_names_is_folded(
    trial: Callable[..., Any], w8a8: Recipes, name: str, kinds: set[str]
) -> None:
    with trial(name, w8a8(smoothing=EVERY_SITE)) as tried:
        decisions = tried.fold()
    folded = {one.planned.kind for one in decisions if one.planned.declined is None}
    assert folded == kinds
    for one in decisions:
        if one.planned.scale is not None:
            assert one.planned.alpha == 0.5
            assert (one.planned.scale > 0).all()
            assert one.planned.channel_scale is not None
            assert len(one.planned.channel_scale) == one.problem.linears[0].weight.shape[1]


def test_query_heads_of_one_key_head_share_the_scale_of_its_values(
    trial: Callable[..., Any], w8a8: Recipes
) -> None:
    with trial("llama", w8a8(smoothing=EVERY_SITE)) as tried:
        site = by_kind(tried.fold())["rows through attention"]
    assert site.scale is not None
    assert site.channel_scale is not None
    heads = site.channel_scale.reshape(2, 2, 16)  # key heads, query heads of each, head size
    np.testing.assert_array_equal(heads[:, 0], heads[:, 1])
    np.testing.assert_array_equal(heads[:, 0].ravel(), site.scale)
    peaks, weights = (
        array.reshape(2, 2, 16).max(axis=1) for array in (site.peaks, site.weight_peaks)
    )
    np.testing.assert_allclose(site.scale, np.sqrt(peaks / weights).ravel(), rtol=1e-5)


def test_a_router_is_scaled_with_the_experts_and_chooses_the_same(
    trial: Callable[..., Any], w8a8: Recipes
) -> None:
    router = "model.layers.0.mlp.gate.weight"
    with trial("qwen3_moe", w8a8(smoothing=EVERY_SITE), {router: "it chooses experts"}) as tried:
        decisions = tried.fold()
        (site,) = (one for one in decisions if router in one.planned.linears)
        assert site.planned.scale is not None
        assert router in tried.changed
        scale = torch.from_numpy(site.planned.scale)
        torch.testing.assert_close(
            tried.parameters[router], (tried.weights[router].double() * scale).float()
        )
        found, codes = tried.search.linears(site, tried.observations, {}, {})
    linears = {one.name: one for one in found}
    assert codes == {}
    assert linears[router].kept == "it chooses experts"
    assert linears[router].weights is None
    experts = linears["model.layers.0.mlp.experts.gate_up_proj"]
    assert experts.kept is None
    assert experts.peak_after < experts.peak_before


def test_peaks_are_those_that_were_observed_and_of_the_weights_as_they_are_stored(
    trial: Callable[..., Any], w8a8: Recipes
) -> None:
    with trial("llama", w8a8(alpha=0.5)) as tried:
        norm, value, *_ = (one.planned for one in tried.fold())
    q, k, v = (f"model.layers.0.self_attn.{one}_proj.weight" for one in "qkv")
    assert norm.linears == (q, k, v)
    observed = tried.observations.seen[q, None].peaks
    np.testing.assert_array_equal(norm.peaks, observed.numpy())
    assert value.scale is not None  # v makes what o reads, so its rows were divided before
    weights = torch.cat([tried.weights[one] for one in (q, k, v)])
    np.testing.assert_array_equal(norm.weight_peaks, weights.abs().amax(0))


def test_a_search_takes_what_is_not_worse(trial: Callable[..., Any], w8a8: Recipes) -> None:
    with trial("llama", w8a8(bits=6)) as tried:
        decisions = tried.fold()
    for one in decisions:
        assert one.planned.error is not None
        assert one.planned.error_before is not None
        if one.planned.scale is None:
            assert one.planned.declined == block_plan.NO_BETTER
            assert one.planned.error == one.planned.error_before
        else:
            assert one.planned.error < one.planned.error_before


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ({"algorithm": "round-to-nearest"}, {block_plan.NOTHING_FOLDED}),
        (
            {"smoothing": {"alpha": 0.5, "sites": ["norm"]}},
            {
                None,
                "the recipe does not fold at sites of the kind value",
                "the recipe does not fold at sites of the kind up",
            },
        ),
    ],
)
def test_what_the_recipe_does_not_ask_for_stays(
    trial: Callable[..., Any], w8a8: Recipes, fields: dict[str, object], reasons: set[str | None]
) -> None:
    with trial("llama", w8a8(**fields)) as tried:
        decisions = tried.fold()
        assert {one.planned.declined for one in decisions} == reasons
        if None not in reasons:
            assert tried.changed == set()
    for one in decisions:
        if one.planned.declined is not None:
            assert one.planned.scale is one.planned.channel_scale is None
            assert (one.scale == 1).all()
        assert one.planned.peaks.max() > 0


def test_what_the_planner_declines_has_its_reason(trial: Callable[..., Any], w8a8: Recipes) -> None:
    with trial("falcon, new decoder", w8a8(smoothing=EVERY_SITE)) as tried:
        sites = {one.planned.linears: one.planned for one in tried.fold()}
    found = sites[("transformer.h.0.mlp.dense_4h_to_h.weight",)]
    assert found.declined == "GELU stands in between"
    assert found.scale is None


def test_a_producer_outside_of_the_block_is_left_alone(
    trial: Callable[..., Any], w8a8: Recipes
) -> None:
    with trial("llama", w8a8(alpha=0.5)) as tried:
        gain = "model.layers.0.input_layernorm.weight"
        inside = {name: value for name, value in tried.parameters.items() if name != gain}
        search = BlockSearch(tried.search.recipe, inside, {})
        (decision,) = search.fold(tried.sites[:1], tried.observations)
        assert tried.changed == set()
    assert decision.planned.declined == block_plan.OUTSIDE


def test_linears_are_measured_folded_and_by_static_ranges(
    trial: Callable[..., Any], w8a8: Recipes
) -> None:
    with trial("llama", w8a8(alpha=0.5)) as tried:
        (decision, *_) = tried.fold()
        linears, _codes = tried.search.linears(decision, tried.observations, {}, {})
        kept = BlockSearch(w8a8(), tried.parameters, {linears[0].name: "the recipe keeps *q_proj"})
        (first, *_), _codes = kept.linears(decision, tried.observations, {}, {})
    peak = (decision.planned.peaks / decision.planned.channel_scale).max()
    for linear in linears:
        assert linear.peak_before == decision.planned.peaks.max()
        assert linear.peak_after == pytest.approx(peak, rel=1e-6)
        assert linear.output_sqnr is not None
        assert 20 < linear.output_sqnr < 60
    assert (first.kept, first.weights) == ("the recipe keeps *q_proj", None)


AWQ_FAMILIES = [*FAMILIES, "mixtral", "gpt_neox", "cohere", "gpt2"]


@pytest.mark.parametrize("name", AWQ_FAMILIES)
def test_awq_leaves_a_block_as_it_was_and_is_nowhere_worse(
    trial: Callable[..., Any], w3a16: Recipes, name: str
) -> None:
    with trial(name, w3a16()) as tried:
        decisions = tried.fold()
        after = tried.run()
        folded = {
            edit.parameter
            for one in decisions
            if one.planned.scale is not None
            for edit in one.problem.site.edits
        }
        assert tried.changed == folded != set()
    assert (after - tried.before).abs().max() <= 1e-5 * tried.before.abs().max()
    for planned, site in ((one.planned, one.problem.site) for one in decisions):
        inside = all(edit.parameter.startswith(tried.search.prefix) for edit in site.edits)
        assert (planned.error is not None) == (site.foldable and inside)
        if planned.error is not None:
            assert planned.error_before is not None
            assert planned.error <= planned.error_before
            assert (planned.scale is None) == (planned.error == planned.error_before)


def test_awqs_search_alone_leaves_the_weights_bit_identical(
    trial: Callable[..., Any], w3a16: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_plan, "fold", lambda *_arguments: None)
    with trial("mixtral", w3a16(scaling={"weight_aware": True, "steps": 2})) as tried:
        decisions = tried.fold()
        for one in decisions:
            tried.search.linears(one, tried.observations, {}, {})
        assert tried.changed == set()
    assert any(one.planned.scale is not None for one in decisions)
