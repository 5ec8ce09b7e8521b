"""Put a fold plan into rows for people: what is alike in several layers is one row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from castline.compiler.graph.folds.site import FoldPlan, Site
from castline.compiler.report.plain import PlainValues

_NUMBER = re.compile(r"(?<=\.)\d+(?=[./]|$)")  # the layer in "model.layers.12.mlp"
_ANY = "*"
_OUTPUT = re.compile(r"_output_\d+$")


@dataclass(frozen=True)
class FoldRow(PlainValues):
    """A site, in all layers that have it."""

    layers: tuple[int, ...]
    """The layers that have it; () outside the layers. Names have * in their place."""
    site: str
    """Path of the node whose output is scaled."""
    producer: str | None
    """Parameter that is divided by the scale, or would be; None where there is none."""
    kind: str
    """How the producer takes the scale up."""
    consumers: tuple[str, ...]
    """Weights of the linears that are multiplied by it."""
    channels: int
    """K, the input dimension of the consumers."""
    scales: int
    """Free entries of the scale: fewer than K where channels share one."""
    reason: str | None
    """Why nothing may be folded; None where a scale may be."""

    @property
    def foldable(self) -> bool:
        return self.reason is None


def fold_table(plan: FoldPlan) -> tuple[FoldRow, ...]:
    """Return a row for every site that differs in more than its layer, in graph order."""
    layers: dict[tuple[object, ...], list[int]] = {}
    rows: dict[tuple[object, ...], Site] = {}
    for site in plan.sites:
        key = _key(site)
        rows.setdefault(key, site)
        layers.setdefault(key, []).extend(_layer(site.value))
    return tuple(_row(site, tuple(layers[key])) for key, site in rows.items())


def layer_ranges(layers: Sequence[int]) -> str:
    """Return layers in ascending order as "0-4, 6"; "-" for none."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts) or "-"


def _key(site: Site) -> tuple[object, ...]:
    names = (site.value, site.producer or "", site.reason or "", *_linears(site))
    return (*map(_any_layer, names), site.kind, site.channels.shape, site.scales)


def _row(site: Site, layers: tuple[int, ...]) -> FoldRow:
    return FoldRow(
        layers=layers,
        site=_any_layer(_OUTPUT.sub("", site.value).lstrip("/")),
        producer=None if site.producer is None else _any_layer(site.producer),
        kind=site.kind,
        consumers=tuple(map(_any_layer, _linears(site))),
        channels=int(site.channels.shape[-1]),
        scales=site.scales,
        reason=None if site.reason is None else _any_layer(site.reason),
    )


def _linears(site: Site) -> Iterable[str]:
    return (consumer.linear for consumer in site.consumers)


def _any_layer(text: str) -> str:
    return _NUMBER.sub(_ANY, text)


def _layer(value: str) -> list[int]:
    found = _NUMBER.search(value)
    return [int(found[0])] if found else []
