"""A plan comes out the same, byte for byte, however often its run was stopped, and by what."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from castline.compiler.plan import store as plan_store
from castline.compiler.plan.decisions import PlannedBlock, QuantPlan
from castline.compiler.plan.store import PlanStore
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.planning import PlanSearch
from castline.errors import OutputError
from castline.progress import Progress, SilentProgress

BLOCKS = 3
Recipes = Callable[..., Recipe]


@pytest.mark.parametrize("done", [0, 1])
def test_awqs_search_is_the_same_bytes_however_often_it_was_stopped(
    search: Callable[..., PlanSearch],
    sample: Callable[[str], Any],
    w3a16: Recipes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    done: int,
    planned: Callable[..., QuantPlan],
    contents: Callable[[Path], dict[str, bytes]],
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
                patched.setattr(plan_store, "_json", _interrupt)
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


def test_the_same_search_is_the_same_bytes_and_the_checkpoint_is_never_folded(
    search: Callable[..., PlanSearch],
    sample: Callable[[str], Any],
    tmp_path: Path,
    planned: Callable[..., QuantPlan],
    contents: Callable[[Path], dict[str, bytes]],
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
    search: Callable[..., PlanSearch],
    sample: Callable[[str], Any],
    tmp_path: Path,
    planned: Callable[..., QuantPlan],
    contents: Callable[[Path], dict[str, bytes]],
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
    search: Callable[..., PlanSearch],
    sample: Callable[[str], Any],
    tmp_path: Path,
    done: int,
    store_in: Callable[..., PlanStore],
    planned: Callable[..., QuantPlan],
    contents: Callable[[Path], dict[str, bytes]],
    stopping_at: Callable[[float], Progress],
) -> None:
    planned(search(), tmp_path / "whole")
    first = search()
    store = store_in(tmp_path / "plan", first.recipe)
    with pytest.raises(KeyboardInterrupt):
        first.into(store, stopping_at(done))
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
    planned: Callable[..., QuantPlan],
    contents: Callable[[Path], dict[str, bytes]],
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
    search: Callable[..., PlanSearch],
    tmp_path: Path,
    store_in: Callable[..., PlanStore],
    planned: Callable[..., QuantPlan],
    contents: Callable[[Path], dict[str, bytes]],
    stopping_at: Callable[[float], Progress],
) -> None:
    planned(search(), tmp_path / "whole")
    first = search()
    store = store_in(tmp_path / "plan", first.recipe)
    with pytest.raises(KeyboardInterrupt):
        first.into(store, stopping_at(2))
    for path in store.work.iterdir():
        path.unlink()
    planned(search(), tmp_path / "plan")
    assert contents(tmp_path / "plan") == contents(tmp_path / "whole")


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync"])
def test_a_disk_that_is_full_in_the_middle_is_told_and_the_run_goes_on(
    search: Callable[..., PlanSearch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    store_in: Callable[..., PlanStore],
    planned: Callable[..., QuantPlan],
    contents: Callable[[Path], dict[str, bytes]],
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


KILLED_AT_EVERY_RENAME = """
import os, pickle, signal, sys
from pathlib import Path
import torch
from castline.compiler.plan.store import PlanStore
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.planning import PlanSearch
from castline.exporters.checkpoint import open_checkpoint
from castline.progress import Progress, SilentProgress

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
    contents: Callable[[Path], dict[str, bytes]],
    store_in: Callable[..., PlanStore],
) -> None:
    """Before and after each rename, where what is on the disk changes, by a real kill -9."""
    searched = search(recipe=w8a8(granularity="per-token", scales="dynamic", alpha=0.5))
    sample("llama").model.save_pretrained(tmp_path / "model")
    identity = store_in(tmp_path / "first", searched.recipe).identity
    given = (searched.searched, searched.recipe, searched.tokens, identity)
    (tmp_path / "given").write_bytes(pickle.dumps(given))
    command = [sys.executable, "-c", KILLED_AT_EVERY_RENAME, str(tmp_path)]
    subprocess.run(command, check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    folders = sorted(tmp_path.glob("plan-*"))
    assert len(folders) == 2 * (2 + 1 + 3 * BLOCKS) + 1  # headers, first states, three a block
    whole = contents(folders[-1])
    assert len(whole) == 1 + 2 * BLOCKS
    for folder in folders:
        assert contents(folder) == whole
