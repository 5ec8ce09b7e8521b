"""Say where a per-channel scale may be folded: sites, the edits that fold one, and the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from castline.compiler.quant.arrays import Array
from castline.exporters.promise import Scaling


@dataclass(frozen=True, eq=False)
class Edit:
    """How folding a scale changes one parameter."""

    parameter: str
    """Its name in the checkpoint, which is also the initializer's."""

    axes: tuple[int, ...]
    """The axes of the stored tensor along which the scale varies, ascending."""

    index: Array
    """int [size of each of `axes`]: which entry of the scale an element takes; -1 for none."""

    multiply: bool
    """Whether the parameter is multiplied, as a consumer, or divided, as a producer."""

    offset: float = 0.0
    """What the graph adds to the parameter before it uses it: 1 for a gain of (1 + w)."""

    def scaling(self, scale: Array, rank: int) -> Scaling:
        """Return what the fold of `scale`, [scales] and positive, does to a tensor of `rank` axes.

        It is computed in float64.
        """
        entries = np.append(np.asarray(scale, np.float64), 1.0)[self.index]  # -1 takes the last
        shape = [1] * rank
        for axis, size in zip(self.axes, self.index.shape, strict=True):
            shape[axis] = size
        factor = (entries if self.multiply else 1 / entries).reshape(shape)
        return Scaling(factor, self.offset)


@dataclass(frozen=True, eq=False)
class Consumer:
    """A linear that reads a scaled value, and so is multiplied by the scale."""

    linear: str
    """Name of its weight in the checkpoint."""

    node: str

    channels: Array
    """int [K], or [E, K] for experts of their own scales: which entry of the scale each takes.

    -1 is a channel that comes from elsewhere and stays as it is.
    """


@dataclass(frozen=True, eq=False)
class Site:
    """One value whose consumers share a scale s: what makes it is divided by s, they multiply."""

    value: str
    """Name of the value in the graph; its last axis is K. It names the site, too."""

    producer: str | None
    """Name of the gain or weight that is divided; None where nothing could be."""

    kind: str
    """How the producer takes the scale up, such as "rows through attention"; "" without one."""

    consumers: tuple[Consumer, ...]

    edits: tuple[Edit, ...]
    """All that folding a scale changes. A declined site lists what a naive fold would change."""

    scales: int
    """Number of free entries of the scale: K, or fewer where channels must share."""

    reason: str | None
    """Why no scale may be folded here, as the end of a sentence; None where one may."""

    @property
    def foldable(self) -> bool:
        return self.reason is None

    @property
    def channels(self) -> Array:
        """Which entry of the scale each channel of the value takes, int [K] or [E, K]."""
        return self.consumers[0].channels


@dataclass(frozen=True, eq=False)
class FoldPlan:
    """Every site of a graph. Each linear belongs to one; other sites may compensate it, too."""

    sites: tuple[Site, ...]
    """In graph order."""

    site_of: Mapping[str, Site]
    """Name of a linear's node -> its site."""

    @cached_property
    def foldable(self) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if site.foldable)

    @cached_property
    def declined(self) -> dict[str, str]:
        """The value of each site where nothing may be folded -> the reason."""
        return {site.value: site.reason for site in self.sites if site.reason is not None}
