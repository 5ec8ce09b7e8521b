"""Show outcomes as short tables on stdout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from castline.compiler.report.figures import (
    EncodingFigures,
    LanguageFigures,
    Speed,
    TensorFigures,
    Verdict,
)
from castline.compiler.report.numbers import duration, percentage, significant, size
from castline.compiler.report.outcome import (
    BuildOutcome,
    CheckOutcome,
    CompileOutcome,
    ExportOutcome,
)

ABSENT = "-"


def show_compiled(outcome: CompileOutcome) -> None:
    """The result beside the original, the verdict, and what else is worth knowing."""
    console = out()
    heading = f"{outcome.output}: {outcome.source}, {outcome.recipe}, {outcome.target}"
    console.print(Text(heading, style="bold"))
    table = _comparison()
    _add_language(table, outcome.language)
    _add_encoding(table, outcome.encoding)
    _add_tensors(table, outcome.tensors)
    table.add_row("size (original in float32)", size(outcome.original_bytes), size(outcome.bytes))
    table.add_row("bits per weight", "", significant(outcome.bits_per_weight))
    _add_speed(table, outcome.original_speed, outcome.speed)
    console.print(table)
    _show_verdicts(console, outcome.verdicts)
    _show_notes(console, outcome.notes, outcome.not_executed)
    console.print(f"compiled in {duration(outcome.seconds)}")


def show_checked(outcome: CheckOutcome) -> None:
    """How the output compares with the original now."""
    console = out()
    console.print(Text(f"{outcome.output} against {outcome.against}", style="bold"))
    table = _comparison()
    _add_language(table, outcome.language)
    _add_encoding(table, outcome.encoding)
    _add_tensors(table, outcome.tensors)
    if table.row_count:
        console.print(table)
    _show_verdicts(console, outcome.verdicts)
    _show_notes(console, outcome.notes, outcome.not_executed)
    console.print(f"checked in {duration(outcome.seconds)}")


def show_exported(outcome: ExportOutcome) -> None:
    """What was written."""
    console = out()
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")  # a path cut short cannot be copied
    table.add_row("written", str(outcome.output))
    table.add_row("from", outcome.source)
    table.add_row("architecture", f"{outcome.architecture}, {outcome.layers} layers")
    table.add_row("graph", f"{outcome.nodes:,} nodes, {outcome.dtype}")
    table.add_row("size", size(outcome.bytes))
    table.add_row("time", duration(outcome.seconds))
    console.print(table)
    _show_notes(console, outcome.notes, ())


def show_built(outcome: BuildOutcome) -> None:
    """The engine that was made."""
    console = out()
    console.print(Text(f"{outcome.output}: {outcome.target} {outcome.version}", style="bold"))
    console.print(f"engine of {size(outcome.bytes)}")
    _show_notes(console, outcome.notes, outcome.not_executed)
    console.print(f"built in {duration(outcome.seconds)}")


def out() -> Console:
    """Stdout as rich writes to it; colours only on a terminal, and never with NO_COLOR."""
    return Console(highlight=False, soft_wrap=True)


def _comparison() -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("original", justify="right")
    table.add_column("result", justify="right")
    return table


def _add_language(table: Table, language: LanguageFigures | None) -> None:
    if language is None:
        return
    table.add_row("perplexity", f"{language.perplexity_original:.2f}", f"{language.perplexity:.2f}")
    table.add_row("KL divergence", "", significant(language.kl_divergence))
    table.add_row("same likeliest token", "", percentage(language.top1_agreement))


def _add_encoding(table: Table, encoding: EncodingFigures | None) -> None:
    if encoding is None:
        return
    table.add_row(
        "cosine of tokens, mean (worst)",
        "",
        f"{encoding.hidden_cosine:.5f} ({encoding.worst_hidden_cosine:.5f})",
    )
    table.add_row(
        "cosine of texts, mean (worst)",
        "",
        f"{encoding.embedding_cosine:.5f} ({encoding.worst_embedding_cosine:.5f})",
    )
    table.add_row("same order of similarities", "", f"{encoding.similarity_correlation:.5f}")


def _add_tensors(table: Table, tensors: TensorFigures | None) -> None:
    for figure in () if tensors is None else tensors.outputs:
        if figure.name == "logits":
            table.add_row("cosine of the logits", "", f"{figure.cosine:.5f}")


def _add_speed(table: Table, original: Speed | None, result: Speed | None) -> None:
    if original is None and result is None:
        return
    pair = (original, result)
    writes = any(speed is not None and speed.decode is not None for speed in pair)
    reading = "prefill, tokens/s" if writes else "tokens/s"
    table.add_row(reading, *(_rate(None if speed is None else speed.prefill) for speed in pair))
    if writes:
        decode = (_rate(None if speed is None else speed.decode) for speed in pair)
        table.add_row("decode, tokens/s", *decode)


def _rate(rate: float | None) -> str:
    return ABSENT if rate is None else significant(rate)


def _show_verdicts(console: Console, verdicts: Sequence[Verdict]) -> None:
    if not verdicts:
        console.print(Text("gate: not judged", style="yellow"))
        return
    failed = [verdict for verdict in verdicts if not verdict.passed]
    word = Text("gate: failed", "bold red") if failed else Text("gate: passed", "green")
    shown = "; ".join(map(_verdict, failed or verdicts))
    console.print(Text.assemble(word, f" ({shown})"))


def _verdict(verdict: Verdict) -> str:
    value = "not measured" if verdict.value is None else significant(verdict.value)
    side = "at most" if verdict.at_most else "at least"
    return f"{verdict.name} {value}, {side} {significant(verdict.limit)}"


def _show_notes(console: Console, notes: Iterable[str], not_executed: Iterable[str]) -> None:
    for note in notes:
        console.print(Text(f"note: {note}"))
    for one in not_executed:
        console.print(Text(f"not executed: {one}", style="yellow"))
