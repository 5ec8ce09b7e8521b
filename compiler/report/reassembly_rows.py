"""Put what QLLM decided into the rows of tables: values reassembled, windows corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from castline.compiler.plan.decisions import PlannedCorrection, PlannedReassembly, QuantPlan
from castline.compiler.report.fold_table import layer_ranges
from castline.compiler.report.numbers import significant
from castline.compiler.report.plan_rows import site_titles

_ADDED = "added to the weights"
_NO_BETTER = "left out, since the merged weights lost more"
_NOTHING = "left out, since nothing was learned"
_STOPPED = "; stopped in epoch {epoch}, since the loss diverged"


@dataclass(frozen=True)
class ReassemblyRow:
    """What linears of one kind read, in all blocks where its channels are reassembled."""

    before: str
    """The kinds of the linears: "gate_proj, up_proj"."""
    blocks: str
    apart: str
    """Median number of channels that stand at several places."""
    merged: str
    """Median number of channels that share a place."""
    error_before: str
    """Median squared error of what is compared, by its square, all quantized."""
    error: str


@dataclass(frozen=True)
class CorrectionRow:
    """One window of blocks."""

    blocks: str
    loss_before: str
    loss_learned: str
    loss_merged: str
    outcome: str


def reassembly_rows(plan: QuantPlan) -> tuple[ReassemblyRow, ...]:
    """Return a row for each kind of linears that read reassembled values."""
    titles = site_titles(plan)
    found: dict[str, list[tuple[int, PlannedReassembly]]] = {}
    for block in plan.blocks:
        for site in block.sites:
            if site.reassembly is not None:
                entry = (block.index, site.reassembly)
                found.setdefault(titles[site.site], []).append(entry)
    return tuple(_reassembly(title, entries) for title, entries in found.items())


def correction_rows(plan: QuantPlan) -> tuple[CorrectionRow, ...]:
    """Return a row for each window of blocks that learned."""
    return tuple(_correction(one, plan) for one in plan.corrections)


def _reassembly(title: str, entries: Sequence[tuple[int, PlannedReassembly]]) -> ReassemblyRow:
    made = [one for _, one in entries]
    return ReassemblyRow(
        before=title,
        blocks=layer_ranges([index for index, _ in entries]),
        apart=f"{median(one.channels.disassembled for one in made):g}",
        merged=f"{median(len(one.channels.place) for one in made):g}",
        error_before=significant(median(one.error_before for one in made)),
        error=significant(median(one.error for one in made)),
    )


def _correction(one: PlannedCorrection, plan: QuantPlan) -> CorrectionRow:
    asked = plan.recipe.get("correction")
    epochs = asked.get("epochs") if isinstance(asked, dict) else None
    outcome = _ADDED if one.merged else _NO_BETTER
    if one.loss_learned >= one.loss_before:
        outcome = _NOTHING
    stopped = isinstance(epochs, int) and one.epochs < epochs
    return CorrectionRow(
        blocks=layer_ranges(range(one.first, one.first + one.blocks)),
        loss_before=significant(one.loss_before),
        loss_learned=significant(one.loss_learned),
        loss_merged=significant(one.loss_merged),
        outcome=outcome + (_STOPPED.format(epoch=one.epochs + 1) if stopped else ""),
    )
