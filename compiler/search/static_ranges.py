"""Take static ranges from the calibration text: of what linears read, and of keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch

from castline.compiler.plan.decisions import PlannedCache
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.histogram import Histogram
from castline.compiler.quant.ranges import activation_parameters
from castline.compiler.quant.scheme import ActivationScheme, CacheScheme, QuantParameters
from castline.compiler.search.linear_calls import LinearCall
from castline.compiler.search.placed_channels import PlacedChannels

Tensor: TypeAlias = torch.Tensor

_LARGEST_CODE = 127  # of the cache, INT8


@dataclass(eq=False)
class SiteRanges:
    """Collects what the linears of a folded block read; an answer for LinearCalls."""

    site_of: Mapping[str, str]
    """Name of a weight -> the site that it reads. One linear of each site is enough."""
    scheme: ActivationScheme | None
    """None: nothing is read."""
    places: Mapping[str, PlacedChannels] = field(default_factory=dict)
    """Name of a weight -> the reassembly of what it reads."""
    histograms: dict[str, Histogram] = field(default_factory=dict)

    def __call__(self, call: LinearCall) -> Tensor:
        """Count what is read, and answer as the model would."""
        site = self.site_of.get(call.name)
        if site is not None and call.x.numel():
            histogram = self.histograms.setdefault(site, Histogram())
            places = self.places.get(call.name)
            x = call.x.detach() if places is None else places.of_values(call.x.detach())
            histogram.update(x.cpu().numpy())
        return call.answer()

    def parameters(self) -> dict[str, QuantParameters]:
        """Return the parameters of each site, which all of its linears share."""
        if self.scheme is None:
            return {}
        return {
            site: activation_parameters(histogram, self.scheme)
            for site, histogram in self.histograms.items()
        }


def cache_scales(peaks: tuple[Tensor, Tensor], scheme: CacheScheme) -> PlannedCache:
    """Return the scales of a layer's keys and values for their `peaks`, [heads, head size] each."""
    return PlannedCache(*(_scales(part.cpu().numpy(), scheme) for part in peaks))


def _scales(peaks: Array, scheme: CacheScheme) -> Array:
    kept = peaks if scheme.granularity == "per-channel" else peaks.max(keepdims=True).reshape(1)
    # A channel that is always zero keeps any scale; one is harmless.
    scales: Array = np.where(kept > 0, kept / _LARGEST_CODE, 1).astype(np.float32)
    return scales
