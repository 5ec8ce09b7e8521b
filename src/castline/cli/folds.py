"""Show where scales may be folded in a checkpoint's graph, and why not elsewhere."""

# ruff: noqa: PLC0415 - the exporter imports torch, which takes seconds that --help does not have.

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from castline.compiler.report.fold_table import FoldRow
    from castline.progress import Progress

HEADINGS = ("layers", "site", "producer", "consumers", "verdict", "reason")
ABSENT = "-"
WIDE = 200  # columns for whatever is not a terminal, so that names stay whole

_LAYER = re.compile(r"\S*\.\*[./]")  # "model.layers.*."


def fold_rows(source: str, trust_remote_code: bool, progress: Progress) -> tuple[FoldRow, ...]:
    """Export a checkpoint's graph, without writing it, and return the rows of its fold plan.

    Raises CheckpointError and UnsupportedArchitectureError as an export does.
    """
    from castline.compiler.graph.folds.plan import fold_sites
    from castline.compiler.report.fold_table import fold_table
    from castline.exporters.checkpoint import open_checkpoint
    from castline.exporters.export import export

    with progress.stage("Opening the checkpoint"):
        checkpoint = open_checkpoint(source, trust_remote_code=trust_remote_code)
    exported = export(checkpoint, progress=progress)
    with progress.stage("Following scales through the graph"):
        return fold_table(fold_sites(exported.model))


def show_folds(rows: Sequence[FoldRow]) -> None:
    """Print the table, and what it comes to."""
    from castline.cli.tables import out
    from castline.compiler.report.fold_table import layer_ranges

    console = out()
    if not console.is_terminal:
        console.width = WIDE
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(
            layer_ranges(row.layers),
            within_layer(row.site),
            within_layer(row.producer or ABSENT),
            consumer_names([within_layer(name) for name in row.consumers]),
            f"foldable: {row.kind}" if row.foldable else "declined",
            within_layer(row.reason or ""),
        )
    console.print(table)
    console.print(Text(total(rows)))


def consumer_names(consumers: Sequence[str]) -> str:
    """Return names with the path of the first written once: "mlp.fc1, fc2"."""
    shortened = [name.removesuffix(".weight") for name in consumers]
    path = shortened[0].rpartition(".")[0]
    return ", ".join((shortened[0], *(n.removeprefix(f"{path}.") for n in shortened[1:])))


def within_layer(name: str) -> str:
    """Return a name without the path of its layer, which the table's first column tells."""
    return _LAYER.sub("", name)


def total(rows: Sequence[FoldRow]) -> str:
    """Return how many sites there are, each layer's counted."""
    count = Counter[bool]()
    for row in rows:
        count[row.foldable] += max(1, len(row.layers))
    sites = "site" if count[True] == 1 else "sites"
    return f"{count[True]} {sites} foldable, {count[False]} declined"
