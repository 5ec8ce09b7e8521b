"""Find the numbers of a quantization block by block, and keep them in a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from castline.compiler.graph.folds.site import Site
from castline.compiler.graph.site_roles import Role
from castline.compiler.plan.decisions import (
    PlannedBlock,
    PlannedCache,
    QuantPlan,
)
from castline.compiler.plan.store import PlanStore
from castline.compiler.quant.scheme import QuantParameters
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.block_plan import BlockSearch, SiteDecision
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.freed_memory import return_freed_memory
from castline.compiler.search.hidden_states import HiddenStates, HiddenStatesWriter
from castline.compiler.search.inspection import InspectedModule, inspected_path, inspecting
from castline.compiler.search.linear_calls import LinearCalls
from castline.compiler.search.observation import Observations
from castline.compiler.search.placed_channels import PlacedChannels
from castline.compiler.search.prepared_block import PreparedBlock
from castline.compiler.search.second_moments import SecondMoments, first_readers
from castline.compiler.search.site_reassembly import SiteReassembly
from castline.compiler.search.static_ranges import SiteRanges, cache_scales
from castline.compiler.search.window import Batches, Window
from castline.progress import Progress

Tokens: TypeAlias = NDArray[np.int64]

_REASSEMBLED = 256  # tokens that modules are run on for every reassembly that is tried
_INSPECTED = 128  # tokens that modules are run on for every scale that is tried
_TOKENS_AT_ONCE = {"cpu": 512, "cuda": 8192}


@dataclass(frozen=True, eq=False)
class Searched:
    """What the graph tells the search: nothing else of it is needed."""

    sites: tuple[Site, ...]
    """Where linears read, and what takes a scale up."""

    kept: Mapping[str, str]
    """Name of a weight that stays in float -> why, as the end of a sentence."""

    roles: Mapping[str, Role] = field(default_factory=dict)
    """Value of a site -> what reads it, where it may be reassembled."""

    reads_float: Mapping[str, str] = field(default_factory=dict)
    """Name of a weight that is quantized, but multiplies float activations -> why."""


@dataclass(frozen=True, eq=False)
class PlanSearch:
    """Runs a model's blocks on the calibration text, one after the other, and decides for each."""

    model: BlockModel
    searched: Searched
    recipe: Recipe
    tokens: Tokens
    """[samples, length]."""

    def into(self, store: PlanStore, progress: Progress) -> QuantPlan:
        """Go on from the store's last finished window, and return the plan when all are done."""
        blocks, correction = len(self.model.blocks), self.recipe.correction
        first = self._entering(store)
        title, unit = "Quantizing, block by block", "blocks"
        if correction is not None:
            title, unit = "Quantizing and correcting, window by window", "steps"
        with progress.stage(title, total=self._work(0, blocks), unit=unit) as advance:
            advance(self._work(0, first))
            for begin in range(first, blocks, self._window):
                window = range(begin, min(begin + self._window, blocks))
                for block in self._planned(window, store.work, advance):
                    store.write(block)
                for index in window:
                    _states(store.work, index).path.unlink()
                _student(store.work, begin).path.unlink(missing_ok=True)
                return_freed_memory()
                advance(len(window))
        return store.finish()

    def _entering(self, store: PlanStore) -> int:
        """Return the block to go on with; what enters it is on the disk then.

        Blocks of a window that was not finished are made again: they learn together.
        """
        first, blocks = store.finished, len(self.model.blocks)
        if first == blocks:
            return first
        first -= first % self._window
        corrects = self.recipe.correction is not None and first > 0
        needed = [_states(store.work, first), *([_student(store.work, first)] if corrects else [])]
        if all(states.path.is_file() for states in needed):
            return first
        return_freed_memory()
        with self._writer(store.work, 0) as writer:
            for hidden in self.model.entering(self.tokens, self._rows):
                writer.append(hidden)
        return 0

    def _planned(
        self, window: range, work: Path, advance: Callable[[float], None]
    ) -> tuple[PlannedBlock, ...]:
        """Decide for the blocks of a window; what leaves it is on the disk then."""
        correction = self.recipe.correction
        with ExitStack() as loaded:
            blocks = []
            for index in window:
                loaded.enter_context(self.model.loaded(index))
                blocks.append(self._prepared(index, work))
            if correction is None:
                return tuple(block.planned({}) for block in blocks)
            entering = _student(work, window[0]) if window[0] else _states(work, 0)
            batches = Batches(entering, _states(work, window[-1] + 1), correction.batch)
            seed = self.recipe.calibration.seed + window[0]
            leaving = _student(work, window[-1] + 1).path
            steps = _Steps(advance, self._work(window[0], window[-1] + 1) - len(window))
            made = Window(self.model, tuple(blocks), self.recipe.attention_scheme)
            corrected = made.corrected(batches, correction, seed, leaving, steps)
            steps.finish()
            return corrected

    def _prepared(self, index: int, work: Path) -> PreparedBlock:
        """Decide for a loaded block, but for its codes."""
        sites = self._sites(index)
        parameters = self.model.parameters(index)
        observations = Observations(-(-len(self.tokens) // self._rows), seed=index)
        search = self._observed(index, sites, parameters, observations, work)
        decisions = search.fold(sites, observations)
        if self.recipe.reassembly is not None:
            settings, roles = self.recipe.reassembly, self.searched.roles
            paths = self._paths(index, sites)
            modules = self._inspected(index, paths, parameters, work, _REASSEMBLED)
            decisions = SiteReassembly(settings, search, roles, modules)(decisions, observations)
        ranges, cache = self._static(index, decisions, parameters, _states(work, index))
        # A window's blocks wait for one another with what choosing their codes takes, and no more.
        moments = search.moments if self.recipe.weighs_errors else None
        search = replace(search, modules={}, moments=moments)
        return PreparedBlock(index, search, observations, decisions, ranges, cache)

    def _observed(
        self,
        index: int,
        sites: tuple[Site, ...],
        parameters: Mapping[str, torch.Tensor],
        observations: Observations,
        work: Path,
    ) -> BlockSearch:
        """Run a loaded block on the whole text; return what decides by what was seen."""
        prefix = self.model.prefix(index)
        moments, answer = None, observations.__call__
        if self.recipe.reads_moments:
            moments = SecondMoments(first_readers(sites), observations)
            answer = moments.__call__
        judged = self._paths(index, sites) if self.recipe.algorithm == "awq" else set()
        with LinearCalls(parameters, answer):
            self._run_whole(index, observations, work)
        modules = {}
        if judged:
            modules = self._inspected(index, judged, parameters, work, _INSPECTED)
        return BlockSearch(
            self.recipe,
            parameters,
            self.searched.kept,
            self.searched.reads_float,
            prefix,
            moments,
            modules,
        )

    def _run_whole(self, index: int, observations: Observations, work: Path) -> None:
        """Run a loaded block on the whole text; what leaves it is on the disk then."""
        with self._writer(work, index + 1) as writer:
            for batch in _states(work, index).batches(self._rows):
                writer.append(self.model.run(index, batch))
                observations.next_batch()

    def _inspected(
        self,
        index: int,
        paths: set[str],
        parameters: Mapping[str, torch.Tensor],
        work: Path,
        tokens: int,
    ) -> dict[str, InspectedModule]:
        """Return the modules at `paths` of a block as they run on so many tokens."""
        samples, length = self._few(tokens)
        hidden = next(_states(work, index).batches(samples))[:, :length]
        with inspecting(self.model.blocks[index], paths, parameters) as modules:
            self.model.run(index, hidden)
        return modules

    def _few(self, tokens: int) -> tuple[int, int]:
        """Return of how many samples, and how many tokens of each, so many tokens are."""
        length: int = self.tokens.shape[1]
        return min(len(self.tokens), max(1, tokens // length)), min(tokens, length)

    def _paths(self, index: int, sites: tuple[Site, ...]) -> set[str]:
        """Return where in a block the modules are by whose output its scales are judged."""
        inspected = (inspected_path(site, self.model.prefix(index)) for site in sites)
        return {path for path in inspected if path is not None}

    def _static(
        self,
        index: int,
        decisions: Sequence[SiteDecision],
        parameters: Mapping[str, torch.Tensor],
        entering: HiddenStates,
    ) -> tuple[dict[str, QuantParameters], PlannedCache | None]:
        """Run the folded block once more, if a static range is asked for, and take it."""
        scheme, cached = self.recipe.activations_scheme, self.recipe.cache_scheme
        if (scheme is None or scheme.dynamic) and cached is None:
            return {}, None
        ranges = SiteRanges(self._read_as_codes(decisions), scheme, places=self._places(decisions))
        if self.model.cache is not None:
            self.model.cache.peaks.pop(index, None)
        with LinearCalls(parameters, ranges):
            for batch in entering.batches(self._rows):
                self.model.run(index, batch)
        cache = None
        if cached is not None and self.model.cache is not None:
            cache = cache_scales(self.model.cache.peaks[index], cached)
        return ranges.parameters(), cache

    def _places(self, decisions: Sequence[SiteDecision]) -> dict[str, PlacedChannels]:
        return {
            name: PlacedChannels.on(self.model.device, one.planned.reassembly.channels)
            for one in decisions
            if one.planned.reassembly is not None
            for name in one.planned.reassembly.linears
        }

    def _read_as_codes(self, decisions: Sequence[SiteDecision]) -> dict[str, str]:
        """Return {weight: site} with the first linear of each site that reads codes, if static."""
        scheme = self.recipe.activations_scheme
        if scheme is None or scheme.dynamic:
            return {}
        floats = self.searched.kept.keys() | self.searched.reads_float.keys()
        return {
            next(filter(lambda name: name not in floats, one.planned.linears)): one.planned.site
            for one in decisions
            if not floats.issuperset(one.planned.linears)
        }

    def _sites(self, index: int) -> tuple[Site, ...]:
        prefix = self.model.prefix(index)
        return tuple(
            site
            for site in self.searched.sites
            if any(consumer.linear.startswith(prefix) for consumer in site.consumers)
        )

    @property
    def _window(self) -> int:
        """How many blocks are decided together."""
        return 1 if self.recipe.correction is None else self.recipe.correction.window

    def _work(self, begin: int, end: int) -> int:
        """Return how many steps it takes to decide for whole windows of blocks."""
        correction = self.recipe.correction
        if correction is None:
            return end - begin
        steps = correction.epochs * -(-len(self.tokens) // correction.batch)
        return end - begin + steps * -(-(end - begin) // self._window)

    @property
    def _rows(self) -> int:
        """Samples that are run at once."""
        length: int = self.tokens.shape[1]
        return max(1, _TOKENS_AT_ONCE[self.model.device.type] // length)

    def _writer(self, work: Path, index: int) -> HiddenStatesWriter:
        return HiddenStatesWriter(_states(work, index).path, *self.tokens.shape)


class _Steps:
    """Passes steps on, and those that were not needed at the end."""

    def __init__(self, advance: Callable[[float], None], steps: float) -> None:
        self._advance = advance
        self._left = steps

    def __call__(self, steps: float) -> None:
        self._left -= steps
        self._advance(steps)

    def finish(self) -> None:
        self(self._left)


def _student(work: Path, index: int) -> HiddenStates:
    """Return what enters a window's first block where all before it is quantized."""
    return HiddenStates(work / f"quantized-{index:03}.npy")


def _states(work: Path, index: int) -> HiddenStates:
    return HiddenStates(work / f"entering-{index:03}.npy")
