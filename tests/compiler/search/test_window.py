"""A corrected window is never worse than a plain one, and what leaves it is what its codes make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.graph.folds.site import Site
from castline.compiler.plan.decisions import PlannedBlock
from castline.compiler.quant.scheme import ActivationScheme
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search import window
from castline.compiler.search.attention_reads import attention_reading
from castline.compiler.search.block_plan import BlockSearch
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.correction import Learned
from castline.compiler.search.hidden_states import HiddenStates, HiddenStatesWriter
from castline.compiler.search.linear_calls import LinearCalls
from castline.compiler.search.low_rank import LowRank
from castline.compiler.search.observation import Observations
from castline.compiler.search.planned_linears import PlannedLinears
from castline.compiler.search.prepared_block import PreparedBlock
from castline.compiler.search.window import Batches, Window

SAMPLES, LENGTH, BLOCKS = 3, 8, 2


class Opened:
    """The first blocks of a tiny Llama, decided but for their codes, and what passes through."""

    def __init__(self, made: Window, folder: Path, recipe: Recipe, batches: Batches) -> None:
        self.window = made
        self.recipe = recipe
        self.batches = batches
        self.leaving = folder / "leaving.npy"

    def corrected(self, **fields: Any) -> tuple[PlannedBlock, ...]:
        assert self.recipe.correction is not None
        settings = self.recipe.correction.model_copy(update=fields)
        return self.window.corrected(self.batches, settings, 0, self.leaving, lambda _: None)

    def plain(self) -> tuple[PlannedBlock, ...]:
        return tuple(block.planned({}) for block in self.window.blocks)

    def through(self, blocks: tuple[PlannedBlock, ...]) -> tuple[np.ndarray, float]:
        """Return what leaves the planned blocks, and its relative error, computed apart."""
        (x,) = self.batches.entering.batches(SAMPLES)
        (target,) = self.batches.target.batches(SAMPLES)
        for block in blocks:
            parameters = self.window.model.parameters(block.index)
            read = {linear.name: parameters[linear.name] for linear in block.linears}
            with (
                LinearCalls(read, PlannedLinears(block)),
                attention_reading(self.window.attention),
            ):
                x = self.window.model.run(block.index, x)
        expected = target.double().numpy()
        apart = ((x.double().numpy() - expected) ** 2).sum(axis=-1)
        return x.numpy(), float((apart / (expected**2).sum(axis=-1)).mean())


@pytest.fixture
def opened(
    sample: Callable[[str], Any],
    sites: Callable[[str], tuple[Site, ...]],
    w4a4_qllm: Callable[..., Recipe],
    tmp_path: Path,
) -> Iterator[Opened]:
    model = BlockModel(sample("llama").checkpoint())
    recipe = w4a4_qllm(reassembly=None)
    tokens = np.random.default_rng(0).integers(3, 100, (SAMPLES, LENGTH))
    hidden = next(model.entering(tokens, SAMPLES))
    entering = _kept(tmp_path / "entering.npy", hidden)
    with ExitStack() as loaded:
        blocks = []
        for index in range(BLOCKS):
            loaded.enter_context(model.loaded(index))
            observations = Observations(1, index)
            with LinearCalls(model.parameters(index), observations):
                hidden = model.run(index, hidden)
            search = BlockSearch(recipe, model.parameters(index), {}, prefix=model.prefix(index))
            inside = [one for one in sites("llama") if f".{index}." in one.consumers[0].linear]
            decisions = search.fold(inside, observations)
            blocks.append(PreparedBlock(index, search, observations, decisions, {}, None))
        batches = Batches(entering, _kept(tmp_path / "target.npy", hidden), 1)
        yield Opened(Window(model, tuple(blocks), None), tmp_path, recipe, batches)


def _kept(path: Path, hidden: torch.Tensor) -> HiddenStates:
    with HiddenStatesWriter(path, SAMPLES, LENGTH) as writer:
        writer.append(hidden)
    return HiddenStates(path)


def codes(blocks: tuple[PlannedBlock, ...]) -> dict[str, bytes]:
    return {
        name: b"".join(matrix.codes.tobytes() for matrix in given.matrices())
        for block in blocks
        for name, given in block.codes.items()
    }


def test_what_leaves_it_is_nearer_to_float_and_as_its_codes_make_it(opened: Opened) -> None:
    blocks = opened.corrected()
    leaving, loss = opened.through(blocks)
    _, before = opened.through(opened.plain())
    np.testing.assert_allclose(np.load(opened.leaving), leaving, rtol=1e-5, atol=1e-5)
    for block in blocks:
        assert block.correction is not None
        assert block.correction == blocks[0].correction
    found = blocks[0].correction
    assert found is not None
    assert (found.first, found.blocks, found.epochs, found.merged) == (0, 2, 3, True)
    assert found.loss_merged == pytest.approx(loss, rel=1e-4)
    assert found.loss_before == pytest.approx(before, rel=1e-4)
    assert found.loss_learned < 0.9 * found.loss_before
    assert found.loss_merged < found.loss_before
    changed = {name for name, each in codes(opened.plain()).items() if codes(blocks)[name] != each}
    assert {name.split(".")[2] for name in changed} == {"0", "1"}


def test_where_nothing_is_learned_the_codes_are_the_plain_ones(opened: Opened) -> None:
    blocks = opened.corrected(learning_rate=1e-30)
    assert codes(blocks) == codes(opened.plain())
    found = blocks[0].correction
    assert found is not None
    assert found.loss_merged == pytest.approx(found.loss_before, rel=1e-6)
    np.testing.assert_array_equal(np.load(opened.leaving), opened.through(blocks)[0])


def test_where_merging_makes_it_worse_the_plain_codes_stay(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = window.learn

    def learned_wrongly(*arguments: Any) -> Learned:
        found = learn(*arguments)
        wrong = {
            reader: LowRank(torch.ones_like(one.a), torch.ones_like(one.b))
            for reader, one in found.low_rank.items()
        }
        return replace(found, low_rank=wrong)

    monkeypatch.setattr(window, "learn", learned_wrongly)
    blocks = opened.corrected()
    found = blocks[0].correction
    assert found is not None
    assert not found.merged
    assert found.loss_merged > found.loss_before
    assert codes(blocks) == codes(opened.plain())
    leaving, loss = opened.through(opened.plain())
    np.testing.assert_array_equal(np.load(opened.leaving), leaving)
    assert found.loss_before == pytest.approx(loss, rel=1e-4)


def test_attention_reads_codes_where_the_recipe_asks_for_it(opened: Opened) -> None:
    scheme = ActivationScheme(2, "per-token", dynamic=True, symmetric=False)
    _, before = opened.through(opened.plain())
    opened.window = replace(opened.window, attention=scheme)
    blocks = opened.corrected()
    leaving, loss = opened.through(blocks)
    np.testing.assert_allclose(np.load(opened.leaving), leaving, rtol=1e-5, atol=1e-5)
    found = blocks[0].correction
    assert found is not None
    assert found.loss_before > before
    assert found.loss_merged == pytest.approx(loss, rel=1e-4)


def test_the_same_seed_gives_the_same_codes_and_weights_stay(opened: Opened) -> None:
    weights = {n: w.clone() for one in opened.window.blocks for n, w in one.parameters.items()}
    first, second = opened.corrected(), opened.corrected()
    assert codes(first) == codes(second)
    assert first[0].correction == second[0].correction
    for block in opened.window.blocks:
        assert all(each.equal(weights[name]) for name, each in block.parameters.items())


def test_batches_pair_what_enters_with_what_should_leave_and_can_be_gone_through_again(
    tmp_path: Path,
) -> None:
    x = torch.arange(24.0).reshape(3, 2, 4)
    entering, target = tmp_path / "entering.npy", tmp_path / "target.npy"
    for path, values in ((entering, x), (target, -x)):
        with HiddenStatesWriter(path, 3, 2) as writer:
            writer.append(values)
    batches = Batches(HiddenStates(entering), HiddenStates(target), 2)
    for _ in range(2):
        found = list(batches)
        assert [len(each) for each, _ in found] == [2, 1]
        assert torch.equal(torch.cat([each for each, _ in found]), x)
        assert all(torch.equal(one, -other) for one, other in found)
