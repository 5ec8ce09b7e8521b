"""Turn a block of a plan into JSON and named arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np

from castline.compiler.plan.decisions import (
    PlannedBlock,
    PlannedCache,
    PlannedCorrection,
    PlannedLinear,
    PlannedReassembly,
    PlannedSite,
)
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.channel_map import ChannelMap
from castline.compiler.quant.scheme import (
    ActivationScheme,
    QuantParameters,
    RangeMethod,
    WeightScheme,
)

Fields: TypeAlias = dict[str, Any]

_SITE_ARRAYS = ("peaks", "weight_peaks", "scale", "channel_scale")
_MAP_ARRAYS = ("gather", "scale", "place", "channel", "channel_scale")  # of a reassembly
_INFINITE = "inf"  # JSON has no infinity; a ratio is infinite where nothing is lost


def encoded(block: PlannedBlock) -> tuple[Fields, dict[str, Array]]:
    """Return what a person reads of a block, and its arrays by the names that it is told by."""
    arrays: dict[str, Array] = {}
    sites = []
    for site in block.sites:
        fields, parts = _encoded_site(site)
        sites.append(fields)
        arrays |= {f"{site.site}:{part}": array for part, array in parts.items()}
    if block.cache is not None:
        arrays |= {"cache:key": block.cache.key, "cache:value": block.cache.value}
    return {
        "block": block.index,
        "name": block.name,
        "linears": [_plain(asdict(linear)) for linear in block.linears],
        "sites": sites,
        "correction": block.correction and asdict(block.correction),
    }, arrays


def decoded(fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> PlannedBlock:
    """Return the block that was encoded. Raises KeyError, TypeError or ValueError for another."""
    cache = None
    if "cache:key" in arrays:
        cache = PlannedCache(arrays["cache:key"], arrays["cache:value"])
    return PlannedBlock(
        index=fields["block"],
        name=fields["name"],
        linears=tuple(_linear(linear) for linear in fields["linears"]),
        sites=tuple(_site(site, arrays) for site in fields["sites"]),
        cache=cache,
        correction=fields["correction"] and PlannedCorrection(**fields["correction"]),
    )


def _encoded_site(site: PlannedSite) -> tuple[Fields, dict[str, Array]]:
    fields = {key: value for key, value in vars(site).items() if key not in _SITE_ARRAYS}
    arrays = {part: getattr(site, part) for part in _SITE_ARRAYS}
    reassembly = site.reassembly
    if reassembly is not None:
        placed = reassembly.channels
        arrays |= {f"reassembly.{part}": getattr(placed, part) for part in _MAP_ARRAYS}
        fields["reassembly"] = {k: v for k, v in vars(reassembly).items() if k != "channels"}
    return fields, {part: array for part, array in arrays.items() if array is not None}


def _linear(fields: Mapping[str, Any]) -> PlannedLinear:
    weights, activations, parameters = (
        fields[key] for key in ("weights", "activations", "parameters")
    )
    ratios = {key: fields[key] for key in ("weight_sqnr", "output_sqnr")}
    return PlannedLinear(
        **{
            **fields,
            **{key: np.inf if ratio == _INFINITE else ratio for key, ratio in ratios.items()},
            "unreached": tuple(fields["unreached"]),
            "weights": weights and WeightScheme(**weights | _range(weights)),
            "activations": activations and ActivationScheme(**activations | _range(activations)),
            "parameters": parameters and QuantParameters(**parameters),
        }
    )


def _range(scheme: Fields) -> Fields:
    return {"range": RangeMethod(**scheme["range"])}


def _site(fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> PlannedSite:
    parts = {part: arrays.get(f"{fields['site']}:{part}") for part in _SITE_ARRAYS}
    reassembly = fields["reassembly"]
    if reassembly is not None:
        prefix = f"{fields['site']}:reassembly"
        channels = ChannelMap(**{part: arrays[f"{prefix}.{part}"] for part in _MAP_ARRAYS})
        linears = tuple(reassembly["linears"])
        reassembly = PlannedReassembly(**{**reassembly, "channels": channels, "linears": linears})
    return PlannedSite(
        **{**fields, **parts, "linears": tuple(fields["linears"]), "reassembly": reassembly}
    )


def _plain(fields: Fields) -> Fields:
    return {key: _INFINITE if value == np.inf else value for key, value in fields.items()}
