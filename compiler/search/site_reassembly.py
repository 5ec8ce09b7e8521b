"""Reassemble the channels of a block's sites, once their scales are folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from castline.compiler.graph.site_roles import Role
from castline.compiler.plan.decisions import PlannedReassembly
from castline.compiler.recipes.reassembly import Reassembly
from castline.compiler.search.block_plan import BlockSearch, SiteDecision, reads_parts
from castline.compiler.search.inspection import InspectedModule, inspected_path
from castline.compiler.search.observation import Observations
from castline.compiler.search.reassembly import reassemble
from castline.compiler.search.site_problem import SiteProblem, site_problem

Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True, eq=False)
class SiteReassembly:
    """Decides for a block whose scales are folded."""

    settings: Reassembly
    search: BlockSearch
    roles: Mapping[str, Role]
    """Value of a site -> what reads it."""
    modules: Mapping[str, InspectedModule]
    """Those whose output is compared, by path in the block, as they run with the scales folded."""

    def __call__(
        self, decisions: Sequence[SiteDecision], observations: Observations
    ) -> tuple[SiteDecision, ...]:
        """Return the decisions, those of sites that gain by it with a reassembly."""
        return tuple(self._decided(decision, observations) for decision in decisions)

    def _decided(self, decision: SiteDecision, observations: Observations) -> SiteDecision:
        site = decision.problem.site
        if self.roles.get(site.value) not in self.settings.sites or reads_parts(site):
            return decision
        search = self.search
        in_float = search.kept.keys() | search.reads_float.keys()
        problem = site_problem(site, search.parameters, observations, dict.fromkeys(in_float, ""))
        names = tuple(dict.fromkeys(one.name for one in problem.linears if one.quantized))
        second = self._second(problem, decision.scale)
        if second is None:
            return decision
        path = inspected_path(site, search.prefix)
        module = None if path is None else self.modules.get(path)
        folded = problem.folded(decision.scale)
        found = reassemble(folded, search.quantizer, second, self.settings, module)
        if found is None:
            return decision
        reassembly = PlannedReassembly(
            found.channels,
            names,
            found.threshold,
            found.metric,
            found.error,
            found.error_before,
            None if module is None else path,
        )
        return replace(decision, planned=replace(decision.planned, reassembly=reassembly))

    def _second(self, problem: SiteProblem, scale: Tensor) -> Tensor | None:
        """Return the sum of x^T x over what the linears to be quantized read, folded, [K, K]."""
        assert self.search.moments is not None, "whoever merges channels gathers moments"
        total: Tensor | None = None
        seen = set()
        for one in problem.linears:
            reader = (self.search.moments.first_of[one.name], one.expert)
            moments = self.search.moments.of(one.name, one.expert)
            if not one.quantized or moments is None or reader in seen:
                continue
            seen.add(reader)
            channels = one.channels(scale)
            second = moments.second / channels / channels[:, None]
            total = second if total is None else total.add_(second)
        return total
