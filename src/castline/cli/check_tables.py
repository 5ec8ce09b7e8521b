"""Show what castline check finds between layers: errors, the first to diverge, which to keep."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from castline.cli.tables import out
from castline.compiler.report.bisect_outcome import BisectOutcome, TriedPiece
from castline.compiler.report.figures import LanguageFigures, LayerFigures, Verdict
from castline.compiler.report.numbers import duration, percentage, significant
from castline.compiler.report.outcome import CheckOutcome


def show_layers(outcome: CheckOutcome) -> None:
    """How far each layer is from the original's, and the commands that repeat the comparison."""
    console = out()
    if outcome.layers is not None:
        _show_layers(console, outcome.layers)
    if outcome.commands:
        console.print(Text("the same by Polygraphy alone, command by command:"))
    for command in outcome.commands:
        console.print(Text(f"  {command}"))


def show_bisected(outcome: BisectOutcome) -> None:
    """The layers to keep in float, what that gives, and how to compile it."""
    console = out()
    heading = f"{outcome.output} against {outcome.against}: what to keep in float"
    console.print(Text(heading, style="bold"))
    if not outcome.pieces:
        console.print("the gate passes as it is: nothing needs to be kept")
    else:
        console.print(_pieces(outcome.pieces))
        console.print(_mixes(outcome.language_quantized, outcome.language))
    for verdict in outcome.verdicts:
        console.print(Text(f"  {_verdict(verdict)}"))
    if outcome.settings:
        given = " ".join(f"--set {shlex.quote(one)}" for one in outcome.settings)
        console.print(
            Text(
                f"{len(outcome.kept)} of {len(outcome.pieces)} kept, and the gate fails with any "
                "one of them left out; compile again with:"
            )
        )
        console.print(Text(f"  {given}", style="bold"))
    for note in outcome.notes:
        console.print(Text(f"note: {note}"))
    console.print(f"{outcome.mixes} mixes run in {duration(outcome.seconds)}")


def _show_layers(console: Console, figures: LayerFigures) -> None:
    first = figures.first_to_diverge
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("hidden state after")
    table.add_column("relative error", justify="right")
    table.add_column("cosine", justify="right")
    table.add_column("")
    for figure in figures.layers:
        error = significant(figure.relative_error)
        mark = "diverges" if first is not None and figure.name == first.name else ""
        table.add_row(figure.name, error, f"{figure.cosine:.5f}", mark)
    console.print(table)
    if first is None:
        console.print(Text(f"no layer diverges ({figures.criterion})"))
    else:
        console.print(Text(f"the first to diverge is {first.name} ({figures.criterion})"))


def _pieces(pieces: Sequence[TriedPiece]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("quantized alone")
    table.add_column("KL divergence", justify="right")
    table.add_column("")
    for piece in pieces:
        missed = ", ".join(f"{name} {significant(one)}" for name, one in piece.without.items())
        kept = f"kept in float; without it {missed}" if piece.kept else ""
        table.add_row(piece.name, significant(piece.kl_divergence), kept)
    return table


def _mixes(quantized: LanguageFigures, mixed: LanguageFigures) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "original", "nothing kept", "those kept"):
        table.add_column(heading, justify="right" if heading else "left")
    both = (quantized, mixed)
    perplexities = (f"{one.perplexity:.2f}" for one in both)
    table.add_row("perplexity", f"{mixed.perplexity_original:.2f}", *perplexities)
    table.add_row("KL divergence", "", *(significant(one.kl_divergence) for one in both))
    table.add_row("same likeliest token", "", *(percentage(one.top1_agreement) for one in both))
    return table


def _verdict(verdict: Verdict) -> str:
    value = "not measured" if verdict.value is None else significant(verdict.value)
    side = "at most" if verdict.at_most else "at least"
    return f"{verdict.name} {value}, {side} {significant(verdict.limit)}"
