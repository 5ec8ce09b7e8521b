"""Find the numbers of a quantization block by block, and keep them in a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from castline.compiler.graph.folds.site import Site
from castline.compiler.plan.decisions import (
    PlannedBlock,
    PlannedCache,
    PlannedLinear,
    QuantPlan,
)
from castline.compiler.plan.store import PlanStore
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.scheme import QuantParameters
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.block_plan import BlockSearch, SiteDecision
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.freed_memory import return_freed_memory
from castline.compiler.search.hidden_states import HiddenStates, HiddenStatesWriter
from castline.compiler.search.inspection import InspectedModule, inspected_path, inspecting
from castline.compiler.search.linear_calls import LinearCalls
from castline.compiler.search.observation import Observations
from castline.compiler.search.second_moments import SecondMoments, first_readers
from castline.compiler.search.static_ranges import SiteRanges, cache_scales
from castline.progress import Progress

Tokens: TypeAlias = NDArray[np.int64]

_GLIMPSED, _INSPECTED = 128, 512  # tokens that modules are run on: for all scales, for the best
_TOKENS_AT_ONCE = {"cpu": 512, "cuda": 8192}


@dataclass(frozen=True, eq=False)
class Searched:
    """What the graph tells the search: nothing else of it is needed."""

    sites: tuple[Site, ...]
    """Where linears read, and what takes a scale up."""

    kept: Mapping[str, str]
    """Name of a weight that stays in float -> why, as the end of a sentence."""

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
        """Go on from the store's last finished block, and return the plan when all are done."""
        blocks = len(self.model.blocks)
        first = self._entering(store)
        with progress.stage("Quantizing, block by block", total=blocks, unit="blocks") as advance:
            advance(first)
            for index in range(first, blocks):
                store.write(self._block(index, store.work))
                _states(store.work, index).path.unlink()
                return_freed_memory()
                advance(1)
        return store.finish()

    def _entering(self, store: PlanStore) -> int:
        """Return the block to go on with; what enters it is on the disk then."""
        first = store.finished
        if first == len(self.model.blocks) or _states(store.work, first).path.is_file():
            return first
        return_freed_memory()
        with self._writer(store.work, 0) as writer:
            for hidden in self.model.entering(self.tokens, self._rows):
                writer.append(hidden)
        return 0

    def _block(self, index: int, work: Path) -> PlannedBlock:
        entering = _states(work, index)
        sites = self._sites(index)
        with self.model.loaded(index):
            parameters = self.model.parameters(index)
            observations = Observations(-(-len(self.tokens) // self._rows), seed=index)
            search = self._observed(index, sites, parameters, observations, work)
            return_freed_memory()
            decisions = search.fold(sites, observations)
            ranges, cache = self._static(index, decisions, parameters, entering)
            linears: list[PlannedLinear] = []
            codes: dict[str, GivenCodes] = {}
            for decision in decisions:
                return_freed_memory()
                planned, chosen = search.linears(decision, observations, ranges)
                linears.extend(planned)
                codes |= chosen
        name = self.model.prefix(index).removesuffix(".")
        sites_decided = tuple(decision.planned for decision in decisions)
        return PlannedBlock(index, name, tuple(linears), sites_decided, cache, codes)

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
        if self.recipe.algorithm == "awq" or self.recipe.searches_codes:
            moments = SecondMoments(first_readers(sites), observations)
            answer = moments.__call__
        with self._writer(work, index + 1) as writer, LinearCalls(parameters, answer):
            for batch in _states(work, index).batches(self._rows):
                writer.append(self.model.run(index, batch))
                observations.next_batch()
        return BlockSearch(
            self.recipe,
            parameters,
            self.searched.kept,
            self.searched.reads_float,
            prefix,
            moments,
            self._inspected(index, sites, parameters, work, _INSPECTED),
            self._inspected(index, sites, parameters, work, _GLIMPSED),
        )

    def _inspected(
        self,
        index: int,
        sites: tuple[Site, ...],
        parameters: Mapping[str, torch.Tensor],
        work: Path,
        tokens: int,
    ) -> dict[str, InspectedModule]:
        """Return the modules by whose output scales are judged, as they run on so many tokens."""
        if self.recipe.algorithm != "awq":
            return {}
        inspected = (inspected_path(site, self.model.prefix(index)) for site in sites)
        paths = {path for path in inspected if path is not None}
        samples = max(1, tokens // self.tokens.shape[1])
        hidden = next(_states(work, index).batches(samples))[:, :tokens]
        with inspecting(self.model.blocks[index], paths, parameters) as modules:
            self.model.run(index, hidden)
        return modules

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
        ranges = SiteRanges(self._read_as_codes(decisions), scheme)
        if self.model.cache is not None:
            self.model.cache.peaks.pop(index, None)
        with LinearCalls(parameters, ranges):
            for batch in entering.batches(self._rows):
                self.model.run(index, batch)
        cache = None
        if cached is not None and self.model.cache is not None:
            cache = cache_scales(self.model.cache.peaks[index], cached)
        return ranges.parameters(), cache

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
    def _rows(self) -> int:
        """Samples that are run at once."""
        length: int = self.tokens.shape[1]
        return max(1, _TOKENS_AT_ONCE[self.model.device.type] // length)

    def _writer(self, work: Path, index: int) -> HiddenStatesWriter:
        return HiddenStatesWriter(_states(work, index).path, *self.tokens.shape)


def _states(work: Path, index: int) -> HiddenStates:
    return HiddenStates(work / f"entering-{index:03}.npy")
