"""A plan is made block by block, and comes out the same however often its run was stopped."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.graph.folds.site import Site
from castline.compiler.plan import store as planning_store
from castline.compiler.plan.decisions import CalibrationFacts, PlanIdentity, PlannedBlock, QuantPlan
from castline.compiler.plan.store import PlanStore
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search import planning
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.planning import PlanSearch, Searched
from castline.errors import CheckpointError, OutputError
from castline.exporters.checkpoint import Checkpoint
from castline.progress import SilentProgress

TOKENS = np.random.default_rng(0).integers(3, 100, (3, 8))
BLOCKS = 3
FACTS = CalibrationFacts("shipped", "t", *TOKENS.shape, 0, chat_template=False)
KEPT = {"model.layers.1.self_attn.k_proj.weight": "the recipe keeps *.1.*k_proj"}
Recipes = Callable[..., Recipe]


@pytest.fixture(autouse=True)
def two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run two samples at once, then the third."""
    monkeypatch.setattr(planning, "_TOKENS_AT_ONCE", {"cpu": 16})


@pytest.fixture
def search(
    sample: Callable[[str], Any], sites: Callable[[str], tuple[Site, ...]], w8a8: Recipes
) -> Callable[..., PlanSearch]:
    """Return the search for a sample's plan; its linears named in KEPT stay in float."""

    def of(
        name: str = "llama", recipe: Recipe | None = None, checkpoint: Checkpoint | None = None
    ) -> PlanSearch:
        recipe = recipe or w8a8()
        model = BlockModel(
            checkpoint or sample(name).checkpoint(),
            observes_cache=recipe.cache_scheme is not None,
        )
        return PlanSearch(model, Searched(sites(name), KEPT), recipe, TOKENS)

    return of


def store_in(folder: Path, recipe: Recipe) -> PlanStore:
    identity = PlanIdentity("c", recipe.searched, FACTS, "1.0")
    store = PlanStore(folder, identity, recipe.model_dump(mode="json"), BLOCKS)
    store.begin(overwrite=False)
    return store


def planned(search: PlanSearch, folder: Path) -> QuantPlan:
    return search.into(store_in(folder, search.recipe), SilentProgress())


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class StopsAt:
    """Progress that ends the run when so many blocks are done, as Ctrl-C does."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks

    @contextmanager
    def stage(
        self,
        title: str,  # noqa: ARG002 - the protocol's signature
        total: float | None = None,  # noqa: ARG002
        unit: str = "",  # noqa: ARG002
    ) -> Iterator[Callable[[float], None]]:
        done = 0.0

        def advance(amount: float) -> None:
            nonlocal done
            done += amount
            if done == self._blocks:
                raise KeyboardInterrupt

        yield advance


def test_a_plan_has_every_linear_once_and_every_site(
    search: Callable[..., PlanSearch], tmp_path: Path
) -> None:
    plan = planned(search(), tmp_path / "plan")
    assert [block.name for block in plan.blocks] == [f"model.layers.{i}" for i in range(BLOCKS)]
    assert len([one for block in plan.blocks for one in block.linears]) == len(plan.linears) == 21
    for block in plan.blocks:
        assert all(linear.name.startswith(f"{block.name}.") for linear in block.linears)
        assert len(block.sites) == 4
    assert {name: one.kept for name, one in plan.linears.items() if one.kept} == KEPT
    assert plan.caches == {}


def test_static_scales_are_the_peaks_of_the_folded_model_over_127(
    search: Callable[..., PlanSearch], w8a8: Recipes, tmp_path: Path
) -> None:
    plan = planned(search(recipe=w8a8(alpha=0.5)), tmp_path / "plan")
    for site in plan.sites:
        assert site.channel_scale is not None
        peak = float((site.peaks / site.channel_scale).max())
        for linear in (plan.linears[name] for name in site.linears if name not in KEPT):
            assert linear.parameters is not None
            assert linear.parameters.scale == pytest.approx(peak / 127, rel=1e-4)
            assert linear.parameters.zero_point == 0
            assert linear.peak_after == pytest.approx(peak, rel=1e-4)


def test_dynamic_scales_are_not_planned(
    search: Callable[..., PlanSearch], w8a8: Recipes, tmp_path: Path
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
) -> None:
    recipe = w8a8(alpha=0.5, kv_cache={"granularity": granularity})
    plan = planned(search(recipe=recipe), tmp_path / "plan")
    with torch.inference_mode():
        output = sample("llama").model(torch.from_numpy(TOKENS), use_cache=True)
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
    search: Callable[..., PlanSearch], w3a16: Recipes, tmp_path: Path, name: str
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


def test_codes_can_be_chosen_without_scales(
    search: Callable[..., PlanSearch], w3a16: Recipes, tmp_path: Path
) -> None:
    plan = planned(search(recipe=w3a16(algorithm="round-to-nearest")), tmp_path / "plan")
    assert all(site.scale is None for site in plan.sites)
    assert plan.codes.keys() == plan.linears.keys() - KEPT.keys()


@pytest.mark.parametrize("done", [0, 1])
def test_awqs_search_is_the_same_bytes_however_often_it_was_stopped(
    search: Callable[..., PlanSearch],
    sample: Callable[[str], Any],
    w3a16: Recipes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    done: int,
) -> None:
    recipe = w3a16(scaling={"steps": 2}, group="per-channel")
    before = {name: array.copy() for name, array in sample("llama").arrays().items()}
    checkpoint = sample("llama").checkpoint()
    planned(search(recipe=recipe, checkpoint=checkpoint), tmp_path / "whole")
    for name, array in before.items():
        np.testing.assert_array_equal(checkpoint.reader.read(name), array)
    kept = PlanStore.write

    def stopped(store: PlanStore, block: PlannedBlock) -> None:
        """Stop between the codes of a block and what says that it is done."""
        with monkeypatch.context() as patched:
            if block.index == done:
                patched.setattr(planning_store, "_json", _interrupt)
            kept(store, block)

    with monkeypatch.context() as patched:
        patched.setattr(PlanStore, "write", stopped)
        with pytest.raises(KeyboardInterrupt):
            planned(search(recipe=recipe), tmp_path / "plan")
    assert (tmp_path / "plan" / "blocks" / f"{done:03}.codes.safetensors").is_file()
    planned(search(recipe=recipe), tmp_path / "plan")
    assert contents(tmp_path / "plan") == contents(tmp_path / "whole")
    assert len([n for n in contents(tmp_path / "plan") if "codes" in n]) == BLOCKS


def _interrupt(_fields: object) -> bytes:
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["qwen3_moe", "gemma", "opt", "falcon, new decoder"])
def test_every_kind_of_block_is_planned(
    search: Callable[..., PlanSearch], w8a8: Recipes, tmp_path: Path, name: str
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


def test_the_same_search_is_the_same_bytes_and_the_checkpoint_is_never_folded(
    search: Callable[..., PlanSearch], sample: Callable[[str], Any], tmp_path: Path
) -> None:
    """Smoothing twice is impossible: what is folded is a copy, which is gone with its block."""
    before = {name: array.copy() for name, array in sample("llama").arrays().items()}
    checkpoint = sample("llama").checkpoint()
    searched = search(checkpoint=checkpoint)
    first = planned(searched, tmp_path / "first")
    planned(searched, tmp_path / "second")
    assert any(site.scale is not None for site in first.sites)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    for name, array in before.items():
        np.testing.assert_array_equal(checkpoint.reader.read(name), array)
    assert first.identity.checkpoint_sha256 == "c"


def test_a_finished_plan_is_not_searched_again(
    search: Callable[..., PlanSearch], sample: Callable[[str], Any], tmp_path: Path
) -> None:
    planned(search(), tmp_path / "plan")
    before = contents(tmp_path / "plan")
    checkpoint = sample("llama").checkpoint()
    again = search(checkpoint=checkpoint)
    checkpoint.reader.reads.clear()
    planned(again, tmp_path / "plan")
    assert contents(tmp_path / "plan") == before
    assert sum(checkpoint.reader.reads.values()) == 0


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_stopped_run_goes_on_behind_its_last_block(
    search: Callable[..., PlanSearch], sample: Callable[[str], Any], tmp_path: Path, done: int
) -> None:
    planned(search(), tmp_path / "whole")
    first = search()
    store = store_in(tmp_path / "plan", first.recipe)
    with pytest.raises(KeyboardInterrupt):
        first.into(store, StopsAt(done))
    assert store.finished == done
    assert len(list(store.work.iterdir())) == 1

    checkpoint = sample("llama").checkpoint()
    again = search(checkpoint=checkpoint)
    checkpoint.reader.reads.clear()
    planned(again, tmp_path / "plan")
    assert contents(tmp_path / "plan") == contents(tmp_path / "whole")
    read = {name.split(".")[2] for name in checkpoint.reader.reads if ".layers." in name}
    assert read == {str(index) for index in range(done, BLOCKS)}


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_run_stopped_before_it_kept_a_block_does_that_block_again(
    search: Callable[..., PlanSearch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: int,
) -> None:
    planned(search(), tmp_path / "whole")
    write = PlanStore.write

    def stopped(store: PlanStore, block: PlannedBlock) -> None:
        if block.index == failing:
            raise KeyboardInterrupt
        write(store, block)

    with monkeypatch.context() as patched:
        patched.setattr(PlanStore, "write", stopped)
        with pytest.raises(KeyboardInterrupt):
            planned(search(), tmp_path / "plan")
    planned(search(), tmp_path / "plan")
    assert contents(tmp_path / "plan") == contents(tmp_path / "whole")


def test_lost_hidden_states_are_made_again_from_the_beginning(
    search: Callable[..., PlanSearch], tmp_path: Path
) -> None:
    planned(search(), tmp_path / "whole")
    first = search()
    store = store_in(tmp_path / "plan", first.recipe)
    with pytest.raises(KeyboardInterrupt):
        first.into(store, StopsAt(2))
    for path in store.work.iterdir():
        path.unlink()
    planned(search(), tmp_path / "plan")
    assert contents(tmp_path / "plan") == contents(tmp_path / "whole")


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync"])
def test_a_disk_that_is_full_in_the_middle_is_told_and_the_run_goes_on(
    search: Callable[..., PlanSearch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    planned(search(), tmp_path / "whole")
    first = search()
    store = store_in(tmp_path / "plan", first.recipe)
    real, room = getattr(os, call), [3]

    def full(*arguments: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(OutputError, match=r"the disk is full. What was finished is kept"):
            first.into(store, SilentProgress())
    assert 1 <= store.finished < BLOCKS
    planned(search(), tmp_path / "plan")
    assert contents(tmp_path / "plan") == contents(tmp_path / "whole")


def test_what_is_not_finite_names_the_linear_and_keeps_what_was_finished(
    search: Callable[..., PlanSearch],
    sample: Callable[[str], Any],
    w8a8: Recipes,
    tmp_path: Path,
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


KILLED_AT_EVERY_RENAME = """
import os, pickle, signal, sys
from pathlib import Path
import torch
from castline.compiler.plan.store import PlanStore
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.planning import PlanSearch
from castline.exporters.checkpoint import open_checkpoint
from castline.progress import SilentProgress

torch.set_num_threads(1)
folder = Path(sys.argv[1])
searched, recipe, tokens, identity = pickle.loads((folder / "given").read_bytes())
model = BlockModel(open_checkpoint(str(folder / "model")))
search = PlanSearch(model, searched, recipe, tokens)
replace = Path.replace

def plan(number, moment):
    moments = iter(range(moment))
    def killed():
        if next(moments, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
    def replaced(path, target):
        killed()
        replace(path, target)
        killed()
    Path.replace = replaced
    store = PlanStore(folder / f"plan-{number:02}", identity, recipe.model_dump(mode="json"), 3)
    store.begin(overwrite=False)
    search.into(store, SilentProgress())

def outcome(number, moment):
    child = os.fork()
    if not child:
        plan(number, moment)
        os._exit(0)
    return os.waitpid(child, 0)[1]

moment, status = 0, signal.SIGKILL
while status:
    status = outcome(moment, moment)
    assert status in (0, signal.SIGKILL), status
    if status:
        assert outcome(moment, 1000) == 0
    moment += 1
"""


def test_a_run_killed_at_any_moment_ends_in_the_same_bytes(
    search: Callable[..., PlanSearch],
    sample: Callable[[str], Any],
    w8a8: Recipes,
    tmp_path: Path,
) -> None:
    """Before and after each rename, where what is on the disk changes, by a real kill -9."""
    searched = search(recipe=w8a8(granularity="per-token", scales="dynamic", alpha=0.5))
    sample("llama").model.save_pretrained(tmp_path / "model")
    identity = PlanIdentity("c", searched.recipe.searched, FACTS, "1.0")
    given = (searched.searched, searched.recipe, TOKENS, identity)
    (tmp_path / "given").write_bytes(pickle.dumps(given))
    command = [sys.executable, "-c", KILLED_AT_EVERY_RENAME, str(tmp_path)]
    subprocess.run(command, check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    folders = sorted(tmp_path.glob("plan-*"))
    assert len(folders) == 2 * (2 + 1 + 3 * BLOCKS) + 1  # headers, first states, three a block
    whole = contents(folders[-1])
    assert len(whole) == 1 + 2 * BLOCKS
    for folder in folders:
        assert contents(folder) == whole
