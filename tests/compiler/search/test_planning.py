"""A plan holds what was decided for every linear, every site and every cache of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.plan.decisions import QuantPlan
from castline.compiler.plan.store import PlanStore
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search import planning
from castline.compiler.search.planning import PlanSearch
from castline.errors import CheckpointError

BLOCKS = 3
Recipes = Callable[..., Recipe]


def test_a_plan_has_every_linear_once_and_every_site(
    search: Callable[..., PlanSearch],
    tmp_path: Path,
    planned: Callable[..., QuantPlan],
    kept: dict[str, str],
) -> None:
    plan = planned(search(), tmp_path / "plan")
    assert [block.name for block in plan.blocks] == [f"model.layers.{i}" for i in range(BLOCKS)]
    assert len([one for block in plan.blocks for one in block.linears]) == len(plan.linears) == 21
    for block in plan.blocks:
        assert all(linear.name.startswith(f"{block.name}.") for linear in block.linears)
        assert len(block.sites) == 4
    assert {name: one.kept for name, one in plan.linears.items() if one.kept} == kept
    assert plan.caches == {}


def test_static_scales_are_the_peaks_of_the_folded_model_over_127(
    search: Callable[..., PlanSearch],
    w8a8: Recipes,
    tmp_path: Path,
    planned: Callable[..., QuantPlan],
    kept: dict[str, str],
) -> None:
    plan = planned(search(recipe=w8a8(alpha=0.5)), tmp_path / "plan")
    for site in plan.sites:
        assert site.channel_scale is not None
        peak = float((site.peaks / site.channel_scale).max())
        for linear in (plan.linears[name] for name in site.linears if name not in kept):
            assert linear.parameters is not None
            assert linear.parameters.scale == pytest.approx(peak / 127, rel=1e-4)
            assert linear.parameters.zero_point == 0
            assert linear.peak_after == pytest.approx(peak, rel=1e-4)


def test_dynamic_scales_are_not_planned(
    search: Callable[..., PlanSearch],
    w8a8: Recipes,
    tmp_path: Path,
    planned: Callable[..., QuantPlan],
) -> None:
    recipe = w8a8(granularity="per-token", scales="dynamic")
    plan = planned(search(recipe=recipe), tmp_path / "plan")
    assert all(linear.parameters is None for linear in plan.linears.values())


@pytest.mark.parametrize("granularity", ["per-tensor", "per-channel"])
def test_scales_of_the_cache_are_those_of_the_folded_models_keys_and_values(
    search: Callable[..., PlanSearch],
    sample: Callable[[str], Any],
    w8a8: Recipes,
    tmp_path: Path,
    granularity: str,
    planned: Callable[..., QuantPlan],
    tokens: np.ndarray,
) -> None:
    recipe = w8a8(alpha=0.5, kv_cache={"granularity": granularity})
    plan = planned(search(recipe=recipe), tmp_path / "plan")
    with torch.inference_mode():
        output = sample("llama").model(torch.from_numpy(tokens), use_cache=True)
    for block, layer in zip(plan.blocks, output.past_key_values.layers, strict=True):
        (value_scale,) = (s.scale for s in block.sites if s.kind == "rows through attention")
        assert value_scale is not None
        key, value = (part.abs().amax(dim=(0, 2)).numpy() for part in (layer.keys, layer.values))
        value = value / value_scale.reshape(value.shape)
        assert block.cache is not None
        for found, peaks in ((block.cache.key, key), (block.cache.value, value)):
            expected = peaks if granularity == "per-channel" else peaks.max().reshape(1)
            np.testing.assert_allclose(found, expected / 127, rtol=1e-4)


@pytest.mark.parametrize("name", ["mixtral", "bert"])
def test_awq_chooses_the_codes_of_every_linear_that_is_quantized(
    search: Callable[..., PlanSearch],
    w3a16: Recipes,
    tmp_path: Path,
    name: str,
    planned: Callable[..., QuantPlan],
) -> None:
    plan = planned(search(name, w3a16()), tmp_path / "plan")
    assert plan.codes.keys() == {n for n, one in plan.linears.items() if one.weights is not None}
    for weight, given in plan.codes.items():
        matrices = tuple(given.matrices())
        assert len(matrices) == (4 if weight.endswith("experts.down_proj") else len(matrices))
        for matrix in matrices:
            assert matrix.codes.max() <= 7
            assert matrix.zero_points is not None
            assert (matrix.scales > 0).all()
        assert plan.linears[weight].output_sqnr is not None
    measured = [site for site in plan.sites if site.error is not None]
    assert all(site.error <= site.error_before for site in measured)
    inspected = {"mixtral": {"self_attn", "mlp", None}, "bert": {"attention.self", None}}
    assert {site.inspected for site in plan.sites if site.scale is not None} <= inspected[name]


def test_modules_are_run_on_a_few_tokens_to_be_judged(
    search: Callable[..., PlanSearch],
    w3a16: Recipes,
    tmp_path: Path,
    planned: Callable[..., QuantPlan],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of all the text's tokens, those of the first samples; long samples are cut."""
    answered: list[torch.Size] = []
    inspected = PlanSearch._inspected

    def noted(search: PlanSearch, index: int, *given: Any) -> Any:
        found = inspected(search, index, *given)
        answered.extend(module.answered.shape for module in found.values())
        return found

    monkeypatch.setattr(PlanSearch, "_inspected", noted)
    for tokens, shape in ((7, (1, 7)), (17, (2, 8)), (1000, (3, 8))):
        answered.clear()
        monkeypatch.setattr(planning, "_INSPECTED", tokens)
        planned(search(recipe=w3a16()), tmp_path / str(tokens))
        assert len(answered) >= BLOCKS
        assert {each[:2] for each in answered} == {shape}


def test_codes_can_be_chosen_without_scales(
    search: Callable[..., PlanSearch],
    w3a16: Recipes,
    tmp_path: Path,
    planned: Callable[..., QuantPlan],
    kept: dict[str, str],
) -> None:
    plan = planned(search(recipe=w3a16(algorithm="round-to-nearest")), tmp_path / "plan")
    assert all(site.scale is None for site in plan.sites)
    assert plan.codes.keys() == plan.linears.keys() - kept.keys()


@pytest.mark.parametrize("name", ["qwen3_moe", "gemma", "opt", "falcon, new decoder"])
def test_every_kind_of_block_is_planned(
    search: Callable[..., PlanSearch],
    w8a8: Recipes,
    tmp_path: Path,
    name: str,
    planned: Callable[..., QuantPlan],
) -> None:
    recipe = w8a8(kv_cache={"granularity": "per-tensor"})
    plan = planned(search(name, recipe), tmp_path / "plan")
    assert sorted(plan.caches) == [0, 1, 2]
    for linear in plan.linears.values():
        assert linear.kept is not None or linear.parameters is not None
        assert linear.kept is not None or linear.output_sqnr is not None
    measured = [site for site in plan.sites if site.error is not None]
    assert measured
    assert all(site.error <= site.error_before for site in measured)


def test_what_is_not_finite_names_the_linear_and_keeps_what_was_finished(
    search: Callable[..., PlanSearch],
    sample: Callable[[str], Any],
    w8a8: Recipes,
    tmp_path: Path,
    store_in: Callable[..., PlanStore],
    planned: Callable[..., QuantPlan],
) -> None:
    arrays = sample("llama").arrays()
    for product in ("gate_proj", "up_proj"):
        name = f"model.layers.1.mlp.{product}.weight"
        arrays[name] = arrays[name] * np.float32(1e30)
    broken = search(checkpoint=sample("llama").checkpoint(arrays))
    with pytest.raises(
        CheckpointError, match=r"model\.layers\.1\.mlp\.down_proj\.weight: .* not finite"
    ):
        planned(broken, tmp_path / "plan")
    assert store_in(tmp_path / "plan", w8a8()).finished == 1
