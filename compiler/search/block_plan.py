"""Decide for one block: scales, static ranges, and what each linear's quantization costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch

from castline.compiler.graph.folds.site import Site
from castline.compiler.plan.decisions import PlannedLinear, PlannedSite
from castline.compiler.quant.scheme import QuantParameters
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.folding import fold
from castline.compiler.search.observation import Observations
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.site_measures import planned_linears
from castline.compiler.search.site_problem import SiteProblem, site_problem
from castline.compiler.search.smoothquant import Smoothed, site_kind, smooth

Tensor: TypeAlias = torch.Tensor

NOTHING_FOLDED = "the algorithm folds nothing"
NEVER_READ = "the calibration text never reached its linears"
NO_BETTER = "no strength is better than none"
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
            smoothed, declined = self._smoothed(problem)
            decided.append(SiteDecision(problem, _planned(problem, peaks, smoothed, declined)))
            if smoothed is not None and declined is None:
                fold(site, smoothed.scale.cpu().numpy(), self.parameters)
        return tuple(reversed(decided))

    def linears(
        self,
        decision: SiteDecision,
        observations: Observations,
        ranges: Mapping[str, QuantParameters],
    ) -> Iterator[PlannedLinear]:
        """Yield how the linears of a folded site are quantized; `ranges` has static parameters."""
        site = decision.problem.site
        folded = site_problem(site, self.parameters, observations, self.kept)
        yield from planned_linears(
            folded, decision.scale, self._quantizer, ranges, self.kept, self.reads_float
        )

    @property
    def _quantizer(self) -> Quantizer:
        return Quantizer(self.recipe.weights_scheme, self.recipe.activations_scheme)

    def _smoothed(self, problem: SiteProblem) -> tuple[Smoothed | None, str | None]:
        """Return the best scale, and why it is not folded if it is not."""
        reason = self._refusal(problem)
        if reason is not None:
            return None, reason
        smoothed = smooth(problem, self.recipe.smoothing, self._quantizer)
        if smoothed is None:
            return None, NEVER_READ
        return smoothed, NO_BETTER if smoothed.alpha is None else None

    def _refusal(self, problem: SiteProblem) -> str | None:
        site = problem.site
        if not self.recipe.smooths:
            return NOTHING_FOLDED
        if site.reason is not None:
            return site.reason
        kind = site_kind(site.kind)
        if kind not in self.recipe.smoothing.sites:
            return f"the recipe does not fold at sites of the kind {kind or site.kind}"
        if any(edit.parameter not in self.parameters for edit in site.edits):
            return OUTSIDE
        first = site.consumers[0].channels
        if any(not np.array_equal(one.channels, first) for one in site.consumers):
            return PARTS
        if not any(one.quantized for one in problem.linears):
            return ALL_KEPT
        return None


def _planned(
    problem: SiteProblem,
    channel_peaks: tuple[Tensor, Tensor],
    smoothed: Smoothed | None,
    declined: str | None,
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
    )
