"""Put a quantization plan into the rows of tables: every linear, the worst ones, the exceptions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from castline.compiler.plan.decisions import PlannedBlock, PlannedLinear, PlannedSite, QuantPlan
from castline.compiler.report.fold_table import layer_ranges
from castline.compiler.report.linear_kinds import linear_kinds, within
from castline.compiler.report.numbers import decibels, percentage, significant
from castline.compiler.report.quantization import sites_by_linear

_FLOAT = "float"


@dataclass(frozen=True)
class LinearRow:
    """One linear, in words; "" where there is nothing to say."""

    block: int
    name: str
    """Its path in the block."""
    weights: str
    activations: str
    peak_before: str
    peak_after: str
    alpha: str
    clipped: str
    """Share of its ranges that were narrowed."""
    weight_sqnr: str
    output_sqnr: str
    kept: str


@dataclass(frozen=True)
class BlockRows:
    """The linears of one block."""

    name: str
    linears: tuple[LinearRow, ...]


@dataclass(frozen=True)
class ExceptionRow:
    """What was not done, in all blocks where it was not for the same reason."""

    what: str
    blocks: str
    reason: str


def block_rows(plan: QuantPlan) -> tuple[BlockRows, ...]:
    """Return every linear, block by block."""
    sites = sites_by_linear(plan)
    return tuple(
        BlockRows(
            block.name,
            tuple(_linear(block, linear, sites.get(linear.name)) for linear in block.linears),
        )
        for block in plan.blocks
    )


def worst_rows(plan: QuantPlan, most: int) -> tuple[LinearRow, ...]:
    """Return the linears whose outputs have the lowest signal-to-quantization-noise ratios."""
    sites = sites_by_linear(plan)
    ranked = [
        (linear.output_sqnr, block, linear)
        for block in plan.blocks
        for linear in block.linears
        if linear.output_sqnr is not None and linear.output_sqnr < math.inf
    ]
    ranked.sort(key=lambda entry: entry[0])
    return tuple(
        _linear(block, linear, sites.get(linear.name)) for _, block, linear in ranked[:most]
    )


def kept_rows(plan: QuantPlan) -> tuple[ExceptionRow, ...]:
    """Return which linears stay in float, wholly or in part, and why."""
    kinds = linear_kinds(plan)
    return _grouped(
        (block.index, kinds[linear.name], linear.kept)
        for block in plan.blocks
        for linear in block.linears
        if linear.kept is not None
    )


def declined_rows(plan: QuantPlan) -> tuple[ExceptionRow, ...]:
    """Return before which linears no scale is folded, and why; none where nothing is smoothed."""
    if all(site.scale is None for site in plan.sites):
        return ()
    titles = site_titles(plan)
    return _grouped(
        (block.index, titles[site.site], site.declined)
        for block in plan.blocks
        for site in block.sites
        if site.declined is not None
    )


def divided_rows(plan: QuantPlan) -> tuple[ExceptionRow, ...]:
    """Return before which linears the graph divides by a scale in a node of its own."""
    titles = site_titles(plan)
    return _grouped(
        (block.index, titles[site.site], "nothing in the model can take the scale up")
        for block in plan.blocks
        for site in block.sites
        if site.explicit
    )


def unreached_rows(plan: QuantPlan) -> tuple[ExceptionRow, ...]:
    """Return the experts that no token of the calibration text reached."""
    kinds = linear_kinds(plan)
    return _grouped(
        (block.index, f"{kinds[linear.name]}, {_experts(linear.unreached)}", "rounded to nearest")
        for block in plan.blocks
        for linear in block.linears
        if linear.unreached
    )


def _experts(indices: tuple[int, ...]) -> str:
    return f"expert{'s' if len(indices) > 1 else ''} {layer_ranges(indices)}"


def site_titles(plan: QuantPlan) -> dict[str, str]:
    """Return name of a site -> the kinds of the linears that read it: "q_proj, k_proj"."""
    kinds = linear_kinds(plan)
    return {
        site.site: ", ".join(dict.fromkeys(kinds.get(name, name) for name in site.linears))
        or site.site
        for site in plan.sites
    }


def _grouped(found: Iterable[tuple[int, str, str]]) -> tuple[ExceptionRow, ...]:
    blocks: dict[tuple[str, str], list[int]] = {}
    for block, what, reason in found:
        blocks.setdefault((what, reason), []).append(block)
    return tuple(
        ExceptionRow(what, layer_ranges(sorted(set(indices))), reason)
        for (what, reason), indices in blocks.items()
    )


def _linear(block: PlannedBlock, linear: PlannedLinear, site: PlannedSite | None) -> LinearRow:
    alpha = None if site is None else site.alpha
    return LinearRow(
        block=block.index,
        name=within(block, linear.name),
        weights=_FLOAT if linear.weights is None else str(linear.weights),
        activations=_FLOAT if linear.activations is None else str(linear.activations),
        peak_before=significant(linear.peak_before),
        peak_after=significant(linear.peak_after),
        alpha="" if alpha is None else f"{alpha:g}",
        clipped="" if linear.clipped is None else percentage(linear.clipped),
        weight_sqnr="" if linear.weight_sqnr is None else decibels(linear.weight_sqnr),
        output_sqnr="" if linear.output_sqnr is None else decibels(linear.output_sqnr),
        kept=linear.kept or "",
    )
