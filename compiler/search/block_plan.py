"""Decide for one block: scales, static ranges, and what each linear's quantization costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import torch

from castline.compiler.graph.folds.site import Site
from castline.compiler.plan.decisions import PlannedLinear, PlannedSite
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import QuantizedMatrix
from castline.compiler.quant.scheme import QuantParameters, WeightScheme
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.awq import Awq
from castline.compiler.search.chosen_codes import ChosenCodes, choose_codes
from castline.compiler.search.folding import fold
from castline.compiler.search.found_scale import FoundScale
from castline.compiler.search.inspection import InspectedModule, inspected_path
from castline.compiler.search.made_linears import Chosen, Deltas, MadeLinears
from castline.compiler.search.observation import Observations, Reader
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.second_moments import SecondMoments
from castline.compiler.search.site_measures import planned_linears
from castline.compiler.search.site_problem import ReadingLinear, SiteProblem, site_problem
from castline.compiler.search.smoothquant import site_kind, smooth

Tensor: TypeAlias = torch.Tensor

NOTHING_FOLDED = "the algorithm folds nothing"
NEVER_READ = "the calibration text never reached its linears"
NO_BETTER = "no scale is better than none"
ALL_KEPT = "all its linears stay in float"
PARTS = "its linears read different parts of the value"
OUTSIDE = "what takes the scale up stands outside of the block"


@dataclass(frozen=True, eq=False)
class SiteDecision:
    """What was decided for a site: the plan's entry, and the problem as it was before."""

    problem: SiteProblem
    planned: PlannedSite

    @property
    def scale(self) -> Tensor:
        """The scale that was folded, [scales]; 1 where none was."""
        peaks = self.problem.activation_peaks
        if self.planned.scale is None:
            return torch.ones_like(peaks, dtype=torch.float64)
        return torch.from_numpy(self.planned.scale).to(peaks.device)


@dataclass(frozen=True, eq=False)
class BlockSearch:
    """Decides for a block whose weights are in memory, and folds them there."""

    recipe: Recipe
    parameters: Mapping[str, Tensor]
    """The block's, by name; changed in place by every fold."""
    kept: Mapping[str, str]
    """Weights that stay in float by what the graph says of them -> why."""
    reads_float: Mapping[str, str] = field(default_factory=dict)
    """Weights that are quantized, but multiply float activations -> why."""
    prefix: str = ""
    """What the names of the block's parameters begin with."""
    moments: SecondMoments | None = None
    """Of what the linears read, where the recipe asks what errors cost at the output."""
    modules: Mapping[str, InspectedModule] = field(default_factory=dict)
    """Those whose output a scale is judged by, by path in the block."""

    def fold(self, sites: Sequence[Site], observations: Observations) -> tuple[SiteDecision, ...]:
        """Choose a scale for every site and fold it; return the decisions in the order of `sites`.

        From the last site to the first: a scale that rows take up changes the weights that the
        site before is decided by.
        """
        decided = []
        unfolded = [
            site_problem(site, self.parameters, observations, self.kept).channel_peaks()
            for site in sites
        ]
        for site, peaks in zip(reversed(sites), reversed(unfolded), strict=True):
            problem = site_problem(site, self.parameters, observations, self.kept)
            found, declined, explicit = self._found(problem)
            planned = _planned(problem, peaks, found, declined, explicit=explicit)
            decided.append(SiteDecision(problem, planned))
            if planned.scale is not None and not explicit:
                fold(site, planned.scale, self.parameters)
        return tuple(reversed(decided))

    def linears(
        self,
        decision: SiteDecision,
        observations: Observations,
        ranges: Mapping[str, QuantParameters],
        deltas: Deltas,
    ) -> tuple[tuple[PlannedLinear, ...], dict[str, GivenCodes]]:
        """Return how the linears of a folded site are quantized, and the codes that were chosen.

        `ranges` has static parameters, `deltas` what was learned to be added to weights.
        """
        site = decision.problem.site
        folded = site_problem(site, self.parameters, observations, self.kept)
        if decision.planned.explicit:
            folded = folded.scaled(decision.scale)
        made = MadeLinears.of(decision.planned, deltas, decision.scale.device)
        chosen = self._chosen(folded, decision.scale, made)
        made = replace(made, chosen=chosen)
        linears = planned_linears(
            folded, decision.scale, self.quantizer, ranges, self.kept, self.reads_float, made
        )
        return tuple(linears), _given(chosen, self.recipe.weights_scheme)

    def _chosen(self, folded: SiteProblem, scale: Tensor, made: MadeLinears) -> Chosen:
        """Return the codes of each matrix to be quantized, unless rounding alone says them."""
        scheme = self.recipe.weights_scheme
        if scheme is None or not self.recipe.searches_codes:
            return {}
        chosen: dict[Reader, ChosenCodes] = {}
        for one in folded.linears:
            if not one.quantized:
                continue
            second, channels = self._expected(one), one.channels(scale)
            if second is not None:
                second = made.moments(one, second.div_(channels).div_(channels[:, None]))
            codes = choose_codes(one.name, made.weight(one), second, self.recipe, scheme)
            chosen[one.name, one.expert] = codes
        return chosen

    def _expected(self, one: ReadingLinear) -> Tensor | None:
        """Return the sum of x^T x that its codes are chosen by; None where they are the nearest."""
        if not self.recipe.weighs_errors:
            return None
        assert self.moments is not None, "whoever chooses codes by what is read gathers moments"
        moments = self.moments.of(one.name, one.expert)
        return None if moments is None else moments.expected

    @property
    def quantizer(self) -> Quantizer:
        """The recipe's."""
        return Quantizer(self.recipe.weights_scheme, self.recipe.activations_scheme)

    def _found(self, problem: SiteProblem) -> tuple[FoundScale | None, str | None, bool]:
        """Return the best scale, why it is not folded if it is not, and whether it is explicit."""
        reason = self._refusal(problem)
        explicit = reason is not None and self._takes_explicit(problem)
        if reason is not None and not explicit:
            return None, reason, False
        found = self._search(problem)
        if found is None:
            return None, NEVER_READ, False
        if found.alpha is None:
            return found, NO_BETTER, False
        return found, None, explicit

    def _search(self, problem: SiteProblem) -> FoundScale | None:
        if self.recipe.algorithm == "smoothquant":
            return smooth(problem, self.recipe.smoothing, self.quantizer)
        assert self.moments is not None, "AWQ gathers moments"
        search = Awq(self.recipe.scaling, self.quantizer, self.moments, self.modules)
        return search(problem, inspected_path(problem.site, self.prefix))

    def _takes_explicit(self, problem: SiteProblem) -> bool:
        """Whether the value may be divided by a node of its own, since nothing takes a scale up."""
        recipe, site = self.recipe, problem.site
        return (
            recipe.algorithm == "awq"
            and recipe.scaling.explicit
            and not site.foldable
            and not reads_parts(site)
            and all(one.quantized and one.expert is None for one in problem.linears)
        )

    def _refusal(self, problem: SiteProblem) -> str | None:
        site = problem.site
        if not self.recipe.folds:
            return NOTHING_FOLDED
        if site.reason is not None:
            return site.reason
        kind = site_kind(site.kind)
        sites = self.recipe.scaling.sites
        if self.recipe.algorithm == "smoothquant":
            sites = self.recipe.smoothing.sites
        if kind not in sites:
            return f"the recipe does not fold at sites of the kind {kind or site.kind}"
        if any(edit.parameter not in self.parameters for edit in site.edits):
            return OUTSIDE
        if reads_parts(site):
            return PARTS
        if not any(one.quantized for one in problem.linears):
            return ALL_KEPT
        return None


def reads_parts(site: Site) -> bool:
    """Whether its linears read different channels of the value."""
    first = site.consumers[0].channels
    return any(not np.array_equal(one.channels, first) for one in site.consumers)


def _given(chosen: Chosen, scheme: WeightScheme | None) -> dict[str, GivenCodes]:
    """Return the codes of each linear, those of a stack expert by expert."""
    matrices: dict[str, list[QuantizedMatrix]] = {}
    for (name, _expert), codes in chosen.items():
        matrices.setdefault(name, []).append(codes.matrix)
    assert scheme is not None or not chosen, "codes have a scheme"
    return {
        name: GivenCodes(scheme, partial(tuple, found))
        for name, found in matrices.items()
        if scheme is not None
    }


def _planned(
    problem: SiteProblem,
    channel_peaks: tuple[Tensor, Tensor],
    smoothed: FoundScale | None,
    declined: str | None,
    *,
    explicit: bool,
) -> PlannedSite:
    site = problem.site
    peaks, weight_peaks = channel_peaks
    scale = None
    if smoothed is not None and declined is None:
        scale = smoothed.scale.cpu().numpy()
    return PlannedSite(
        site=site.value,
        kind=site.kind,
        linears=tuple(consumer.linear for consumer in site.consumers),
        peaks=peaks.cpu().numpy(),
        weight_peaks=weight_peaks.cpu().numpy(),
        scale=scale,
        channel_scale=None if scale is None else np.append(scale, 1.0)[site.channels],
        alpha=None if smoothed is None else smoothed.alpha,
        declined=declined,
        error=None if smoothed is None else smoothed.error,
        error_before=None if smoothed is None else smoothed.error_before,
        inspected=None if smoothed is None else smoothed.inspected,
        explicit=explicit,
    )
