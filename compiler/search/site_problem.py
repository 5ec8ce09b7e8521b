"""Put a site of the graph together with what its linears read: the problem that a search solves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from castline.compiler.graph.folds.site import Consumer, Site
from castline.compiler.search.observation import Observations, Observed

Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True, eq=False)
class ReadingLinear:
    """One matrix that reads the site's value."""

    name: str
    expert: int | None
    weight: Tensor
    """[N, K]."""
    entries: Tensor
    """int [K]: which entry of the site's scale each channel takes; -1 for none."""
    observed: Observed | None
    """None: the calibration text never reached it."""
    quantized: bool
    """Whether it is to be quantized; what stays in float is scaled all the same."""

    def channels(self, scale: Tensor) -> Tensor:
        """Return the scale of each channel [K] in float32; 1 where it takes none."""
        padded = torch.cat([scale.double(), scale.new_ones(1).double()])
        return padded[self.entries].float()


@dataclass(frozen=True, eq=False)
class SiteProblem:
    """A site, what reads it and the peaks by entry of its scale."""

    site: Site
    linears: tuple[ReadingLinear, ...]

    @property
    def activation_peaks(self) -> Tensor:
        """Return the largest absolute value that each entry of the scale would divide, [scales]."""
        peaks = self._zeros()
        for linear in self.linears:
            if linear.observed is not None:
                _raise_to(peaks, linear.entries, linear.observed.peaks)
        return peaks

    @property
    def weight_peaks(self) -> Tensor:
        """Return the largest absolute weight that each entry would multiply, [scales]."""
        peaks = self._zeros()
        for linear in self.linears:
            _raise_to(peaks, linear.entries, linear.weight.abs().amax(dim=0))
        return peaks

    def channel_peaks(self) -> tuple[Tensor, Tensor]:
        """Return what the first linear's channels [K] reach: in all that read, in all weights."""
        read = [one.observed.peaks for one in self.linears if one.observed is not None]
        weights = torch.stack([one.weight.abs().amax(dim=0) for one in self.linears])
        peaks = torch.stack(read).amax(dim=0) if read else torch.zeros_like(weights[0])
        return peaks, weights.amax(dim=0)

    def scaled(self, scale: Tensor) -> SiteProblem:
        """Return the problem whose weights are multiplied by `scale` [scales]; these stay."""
        linears = (replace(one, weight=one.weight * one.channels(scale)) for one in self.linears)
        return replace(self, linears=tuple(linears))

    def folded(self, scale: Tensor) -> SiteProblem:
        """Return the problem of weights that hold `scale` [scales]: what is read is over it."""
        linears = (
            replace(one, observed=one.observed and one.observed.over(one.channels(scale)))
            for one in self.linears
        )
        return replace(self, linears=tuple(linears))

    def _zeros(self) -> Tensor:
        return torch.zeros(self.site.scales, device=self.linears[0].weight.device)


def site_problem(
    site: Site,
    parameters: Mapping[str, Tensor],
    observations: Observations,
    kept: Mapping[str, str],
) -> SiteProblem:
    """Return the problem of a site whose linears' weights are in memory.

    `parameters` holds them as the model stores them; `kept` names those that stay in float.
    """
    linears = (_reading(consumer, parameters, observations, kept) for consumer in site.consumers)
    return SiteProblem(site, tuple(one for each in linears for one in each))


def _reading(
    consumer: Consumer,
    parameters: Mapping[str, Tensor],
    observations: Observations,
    kept: Mapping[str, str],
) -> Iterator[ReadingLinear]:
    stored = parameters[consumer.linear]
    if consumer.linear in observations.transposed:
        stored = stored.mT
    entries = torch.from_numpy(consumer.channels).long().to(stored.device)
    for expert in range(len(stored)) if stored.ndim == 3 else (None,):
        yield ReadingLinear(
            consumer.linear,
            expert,
            weight=stored if expert is None else stored[expert],
            entries=entries if entries.ndim == 1 else entries[expert or 0],
            observed=observations.seen.get((consumer.linear, expert)),
            quantized=consumer.linear not in kept,
        )


def _raise_to(peaks: Tensor, entries: Tensor, found: Tensor) -> None:
    taking = entries >= 0
    peaks.scatter_reduce_(0, entries[taking], found[taking].to(peaks), "amax")
