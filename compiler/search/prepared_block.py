"""Hold what was decided for a block before its codes are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

from castline.compiler.plan.decisions import PlannedBlock, PlannedCache, PlannedLinear
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.scheme import QuantParameters
from castline.compiler.search.block_plan import BlockSearch, SiteDecision
from castline.compiler.search.freed_memory import return_freed_memory
from castline.compiler.search.made_linears import Deltas
from castline.compiler.search.observation import Observations

Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True, eq=False)
class PreparedBlock:
    """A block in memory, its scales folded, and what its linears read."""

    index: int
    search: BlockSearch
    observations: Observations
    decisions: tuple[SiteDecision, ...]
    ranges: Mapping[str, QuantParameters]
    """Static parameters of what is read, by site."""
    cache: PlannedCache | None

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """The block's, by name."""
        return self.search.parameters

    def planned(self, deltas: Deltas) -> PlannedBlock:
        """Return the block with its codes; `deltas` are added to weights before."""
        linears: list[PlannedLinear] = []
        codes: dict[str, GivenCodes] = {}
        for decision in self.decisions:
            return_freed_memory()
            planned, chosen = self.search.linears(decision, self.observations, self.ranges, deltas)
            linears.extend(planned)
            codes |= chosen
        name = self.search.prefix.removesuffix(".")
        sites = tuple(decision.planned for decision in self.decisions)
        return PlannedBlock(self.index, name, tuple(linears), sites, self.cache, codes)
