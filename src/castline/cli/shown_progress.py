"""Show progress on stderr: a bar and the time left for each stage, a line when it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from castline.compiler.report.numbers import size
from castline.progress import Progress, SilentProgress


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Progress]:
    """Give a Progress that shows itself on stderr, or a silent one.

    It is silent when asked to be and when stderr is not a terminal, so logs stay short.
    """
    if quiet or not sys.stderr.isatty():
        yield SilentProgress()
        return
    bars = Bars(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        _Amount(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bars:
        yield _BarProgress(bars)


class _BarProgress:
    """Progress as rich's bars; a stage within a stage gets a bar of its own below."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    @contextmanager
    def stage(
        self, title: str, total: float | None = None, unit: str = ""
    ) -> Iterator[Callable[[float], None]]:
        began = time.monotonic()
        task = self._bars.add_task(Text(title).markup, total=total, unit=unit)
        try:
            yield lambda amount: self._bars.advance(task, amount)
        finally:
            self._bars.remove_task(task)
        seconds = time.monotonic() - began
        self._bars.console.print(Text(f"{title}: {seconds:.1f} s", style="dim"))


class _Amount(ProgressColumn):
    """How much of the total is done, in its unit."""

    def render(self, task: Task) -> Text:
        unit = str(task.fields.get("unit", ""))
        show = size if unit == "B" else _count
        parts = [show(task.completed)] if task.completed or task.total else []
        if task.total is not None:
            parts.append(f"of {show(task.total)}")
        if unit != "B" and parts:
            parts.append(unit)
        return Text(" ".join(parts))


def _count(amount: float) -> str:
    return f"{amount:,.0f}"
