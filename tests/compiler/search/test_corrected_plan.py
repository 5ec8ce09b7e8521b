"""QLLM's plan: windows corrected together, none left over, channels apart behind any scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from castline.compiler.graph.folds.site import Site
from castline.compiler.graph.site_roles import Role
from castline.compiler.plan.decisions import PlannedBlock, QuantPlan
from castline.compiler.plan.store import PlanStore
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.planning import PlanSearch, Searched
from castline.compiler.searchable import reads_float, stays_float
from castline.exporters.checkpoint import Checkpoint
from castline.progress import Progress

BLOCKS = 3
Recipes = Callable[..., Recipe]


def codes(plan: QuantPlan) -> dict[str, bytes]:
    return {
        name: b"".join(
            matrix.codes.tobytes() + matrix.scales.tobytes() for matrix in given.matrices()
        )
        for name, given in plan.codes.items()
    }


@pytest.mark.parametrize(
    ("name", "blocks", "window"),
    [
        ("llama", 2, 2),
        ("llama", 2, 4),
        ("llama", 3, 2),
        ("llama", 3, 4),
        ("qwen3", 5, 2),
        ("qwen3", 5, 4),
    ],
)
def test_windows_are_corrected_together_and_no_block_is_left_over(
    search: Callable[..., PlanSearch],
    w4a4_qllm: Recipes,
    with_outliers: Callable[..., Checkpoint],
    tmp_path: Path,
    name: str,
    blocks: int,
    window: int,
    planned: Callable[..., QuantPlan],
    kept: dict[str, str],
) -> None:
    recipe = w4a4_qllm({"window": window})
    plan = planned(search(name, recipe, with_outliers(name, blocks)), tmp_path / "plan")
    assert [block.index for block in plan.blocks] == list(range(blocks))
    assert plan.codes.keys() == plan.linears.keys() - kept.keys()
    begins = range(0, blocks, window)
    assert [(one.first, one.blocks) for one in plan.corrections] == [
        (begin, min(window, blocks - begin)) for begin in begins
    ]
    for block in plan.blocks:
        assert block.correction == plan.corrections[block.index // window]
    for one in plan.corrections:
        assert one.loss_learned < one.loss_before
        assert one.merged == (one.loss_merged < one.loss_before)
        assert one.epochs == 3
    assert any(one.merged for one in plan.corrections)
    for site in plan.sites:
        if site.reassembly is not None:
            assert site.reassembly.error < site.reassembly.error_before
            assert set(site.reassembly.linears) == set(site.linears) - kept.keys()
    assert sum(site.reassembly is not None for site in plan.sites) >= 2 * blocks


def test_a_correction_that_learned_nothing_leaves_the_codes_as_without_it(
    search: Callable[..., PlanSearch],
    w4a4_qllm: Recipes,
    with_outliers: Callable[..., Checkpoint],
    tmp_path: Path,
    planned: Callable[..., QuantPlan],
) -> None:
    checkpoint = with_outliers("llama")
    recipes = (w4a4_qllm({"learning_rate": 1e-30}), w4a4_qllm(correction=None), w4a4_qllm())
    still, without, learned = (
        planned(search(recipe=recipe, checkpoint=checkpoint), tmp_path / str(number))
        for number, recipe in enumerate(recipes)
    )
    assert codes(still) == codes(without)
    assert codes(learned) != codes(without)
    assert without.corrections == ()
    for one, other in zip(still.sites, without.sites, strict=True):
        assert (one.reassembly is None) == (other.reassembly is None)


def test_channels_are_taken_apart_behind_smoothquant(
    search: Callable[..., PlanSearch],
    w4a4_qllm: Recipes,
    with_outliers: Callable[..., Checkpoint],
    tmp_path: Path,
    planned: Callable[..., QuantPlan],
) -> None:
    """Their peaks are those of what is read once the scale is folded."""
    smoothing = {"alpha": 0.2, "sites": ["norm"]}
    recipe = w4a4_qllm(algorithm="smoothquant", smoothing=smoothing)
    checkpoint = with_outliers("llama")
    plan = planned(search(recipe=recipe, checkpoint=checkpoint), tmp_path / "plan")
    both = [one for one in plan.sites if one.scale is not None and one.reassembly is not None]
    assert len(both) >= 3
    for site in both:
        assert site.channel_scale is not None
        assert site.reassembly is not None
        channels, peaks = site.reassembly.channels, site.peaks / site.channel_scale
        copies = np.bincount(channels.gather, minlength=len(peaks))
        wanted, apart = peaks / site.reassembly.threshold, copies > 1
        assert wanted[~apart].max() < 1 + 1e-5
        # A threshold may lie where the next copy begins.
        assert (copies[apart] > wanted[apart] - 1e-5).all()
        assert (copies[apart] < wanted[apart] + 1 + 1e-5).all()


@pytest.mark.parametrize("algorithm", ["round-to-nearest", "awq"])
def test_ranges_are_clipped_on_the_weights_of_the_places(
    search: Callable[..., PlanSearch],
    w4a4_qllm: Recipes,
    with_outliers: Callable[..., Checkpoint],
    tmp_path: Path,
    algorithm: str,
    planned: Callable[..., QuantPlan],
    kept: dict[str, str],
) -> None:
    scaling = {"steps": 2}
    recipe = w4a4_qllm(algorithm=algorithm, scaling=scaling, clipping={}, rounding="compensated")
    checkpoint = with_outliers("llama")
    plan = planned(search(recipe=recipe, checkpoint=checkpoint), tmp_path / "plan")
    assert plan.codes.keys() == plan.linears.keys() - kept.keys()
    assert any(site.reassembly is not None for site in plan.sites)
    assert any(site.scale is not None for site in plan.sites) == (algorithm == "awq")
    for name, linear in plan.linears.items():
        clips = not any(leaf in name for leaf in ("q_proj", "k_proj"))
        assert (linear.clipped is not None) == (clips and name not in kept)
    assert all(one.loss_learned < one.loss_before for one in plan.corrections)


def test_static_ranges_are_those_of_the_places(
    search: Callable[..., PlanSearch],
    w4a4_qllm: Recipes,
    with_outliers: Callable[..., Checkpoint],
    tmp_path: Path,
    planned: Callable[..., QuantPlan],
) -> None:
    activations = {"bits": 4, "granularity": "per-tensor", "scales": "static"}
    recipe = w4a4_qllm(activations=activations, correction=None)
    checkpoint = with_outliers("llama")
    plan = planned(search(recipe=recipe, checkpoint=checkpoint), tmp_path / "plan")
    reassembled = [site for site in plan.sites if site.reassembly is not None]
    assert reassembled
    for site in reassembled:
        assert site.reassembly is not None
        # Merged channels come at most to the sum of their peaks.
        most = float(site.reassembly.channels.of_values(site.peaks).max())
        for name in site.reassembly.linears:
            parameters = plan.linears[name].parameters
            assert parameters is not None
            assert parameters.scale * 7 <= most * (1 + 1e-5)
            assert parameters.scale * 7 < float(site.peaks.max())


@pytest.fixture
def mixture(
    search: Callable[..., PlanSearch],
    sample: Callable[[str], Any],
    sites: Callable[[str], tuple[Site, ...]],
    roles: Callable[[str], dict[str, Role]],
    w4a4_qllm: Recipes,
    with_outliers: Callable[..., Checkpoint],
) -> Callable[[str], PlanSearch]:
    """Return QLLM's search for a mixture of experts, as the graph tells what stays in float."""

    def of(name: str) -> PlanSearch:
        recipe, model = w4a4_qllm(), sample(name).graph()
        kept, floats = stays_float(model, recipe), reads_float(model)
        searched = Searched(sites(name), kept, roles(name), floats)
        return replace(search(name, recipe, with_outliers(name)), searched=searched)

    return of


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe"])
def test_routers_and_experts_read_the_value_as_it_is(
    mixture: Callable[[str], PlanSearch],
    tmp_path: Path,
    name: str,
    planned: Callable[..., QuantPlan],
) -> None:
    searched = mixture(name)
    plan = planned(searched, tmp_path / "plan")
    read = [n for site in plan.sites if site.reassembly for n in site.reassembly.linears]
    kept = searched.searched.kept.keys() | searched.searched.reads_float.keys()
    assert not kept & set(read)
    modules = {each.split(".", 3)[-1].removesuffix(".weight") for each in read}
    attention = {f"self_attn.{part}_proj" for part in "qkv"}
    shared = {f"mlp.shared_expert.{part}_proj" for part in ("gate", "up")}
    assert modules >= (attention | shared if name == "qwen2_moe" else attention)
    experts = [one for one in plan.codes if "mlp.experts." in one]
    assert experts
    assert all(plan.linears[one].activations is None for one in experts)
    assert all(one.loss_learned < one.loss_before for one in plan.corrections)


@pytest.mark.parametrize(
    ("stopped_at", "goes_on_with"),
    [(1, 0), (9, 0), (11, 2), (14, 2), (20, 2)],
    ids=["first step", "before writing", "after it", "in the next window", "before its end"],
)
def test_a_run_stopped_within_a_window_does_that_window_again(
    search: Callable[..., PlanSearch],
    w4a4_qllm: Recipes,
    with_outliers: Callable[..., Checkpoint],
    tmp_path: Path,
    stopped_at: int,
    goes_on_with: int,
    store_in: Callable[..., PlanStore],
    planned: Callable[..., QuantPlan],
    contents: Callable[[Path], dict[str, bytes]],
    stopping_at: Callable[[float], Progress],
) -> None:
    """Three epochs of three samples take 9 steps, and then each block one as it is kept."""
    recipe = w4a4_qllm()
    planned(search(recipe=recipe, checkpoint=with_outliers("llama")), tmp_path / "whole")
    first = search(recipe=recipe, checkpoint=with_outliers("llama"))
    store = store_in(tmp_path / "plan", recipe)
    with pytest.raises(KeyboardInterrupt):
        first.into(store, stopping_at(stopped_at))
    assert store.finished == goes_on_with

    checkpoint = with_outliers("llama")
    again = search(recipe=recipe, checkpoint=checkpoint)
    checkpoint.reader.reads.clear()
    planned(again, tmp_path / "plan")
    assert contents(tmp_path / "plan") == contents(tmp_path / "whole")
    read = {name.split(".")[2] for name in checkpoint.reader.reads if ".layers." in name}
    assert read == {str(index) for index in range(goes_on_with, BLOCKS)}


@pytest.mark.parametrize("lost", ["nothing", "quantized"])
def test_a_window_whose_blocks_were_not_all_kept_is_done_again(
    search: Callable[..., PlanSearch],
    w4a4_qllm: Recipes,
    with_outliers: Callable[..., Checkpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
    store_in: Callable[..., PlanStore],
    planned: Callable[..., QuantPlan],
    contents: Callable[[Path], dict[str, bytes]],
) -> None:
    """All is, where what leaves the quantized windows before is lost."""
    recipe, checkpoint = w4a4_qllm({"window": 1}), with_outliers("llama")
    if lost == "nothing":
        recipe = w4a4_qllm({"window": 3})
    planned(search(recipe=recipe, checkpoint=checkpoint), tmp_path / "whole")
    write = PlanStore.write

    def stopped(store: PlanStore, block: PlannedBlock) -> None:
        if block.index == BLOCKS - 1:
            raise KeyboardInterrupt
        write(store, block)

    with monkeypatch.context() as patched:
        patched.setattr(PlanStore, "write", stopped)
        with pytest.raises(KeyboardInterrupt):
            planned(search(recipe=recipe, checkpoint=checkpoint), tmp_path / "plan")
    store = store_in(tmp_path / "plan", recipe)
    assert store.finished == BLOCKS - 1
    for path in store.work.glob("quantized-*.npy") if lost == "quantized" else ():
        path.unlink()
    planned(search(recipe=recipe, checkpoint=checkpoint), tmp_path / "plan")
    assert contents(tmp_path / "plan") == contents(tmp_path / "whole")
