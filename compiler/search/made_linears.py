"""Say what the linears of a site become before they are quantized: reassembled and corrected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from castline.compiler.plan.decisions import PlannedSite
from castline.compiler.search.chosen_codes import ChosenCodes
from castline.compiler.search.observation import Reader
from castline.compiler.search.placed_channels import PlacedChannels
from castline.compiler.search.site_problem import ReadingLinear

Tensor: TypeAlias = torch.Tensor
Deltas: TypeAlias = Mapping[Reader, Tensor]
"""What is added to the reassembled weights [N, K] of linears."""
Chosen: TypeAlias = Mapping[Reader, ChosenCodes]
"""The codes of matrices, by the name of the parameter and the expert."""


@dataclass(frozen=True, eq=False)
class MadeLinears:
    """What the linears of a folded site read and multiply by; as they are if nothing is given."""

    channels: PlacedChannels | None = None
    """The reassembly of the value."""
    names: frozenset[str] = frozenset()
    """Weights whose linears read the reassembled value."""
    deltas: Deltas = field(default_factory=dict)
    chosen: Chosen = field(default_factory=dict)

    @classmethod
    def of(cls, site: PlannedSite, deltas: Deltas, device: torch.device) -> MadeLinears:
        """Return them as a plan says."""
        if site.reassembly is None:
            return cls(deltas=deltas)
        channels = PlacedChannels.on(device, site.reassembly.channels)
        return cls(channels, frozenset(site.reassembly.linears), deltas)

    def read(self, one: ReadingLinear, x: Tensor) -> Tensor:
        """Return what a linear reads, [..., K], for a value [..., K] whose scale is folded."""
        channels = self._of(one)
        return x if channels is None else channels.of_values(x)

    def weight(self, one: ReadingLinear) -> Tensor:
        """Return what it multiplies by before quantization, [N, K]."""
        channels = self._of(one)
        weight = one.weight if channels is None else channels.of_weights(one.weight)
        delta = self.deltas.get((one.name, one.expert))
        return weight if delta is None else weight + delta

    def moments(self, one: ReadingLinear, second: Tensor) -> Tensor:
        """Return the sum of x^T x over what it reads, given that over the value, [K, K]."""
        channels = self._of(one)
        return second if channels is None else channels.of_moments(second)

    def _of(self, one: ReadingLinear) -> PlacedChannels | None:
        return self.channels if one.name in self.names else None
