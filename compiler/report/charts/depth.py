"""Draw figures of the layers over the depth of the model, one line for each kind of layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from castline.compiler.report.charts.canvas import Chart, chart, line_style, logarithmic
from castline.compiler.report.numbers import significant

Points: TypeAlias = Sequence[tuple[int, float]]
"""Index of the block and figure, by index."""


def depth_chart(
    name: str,
    title: str,
    unit: str,
    lines: Mapping[str, Points],
    before: Mapping[str, Points] | None = None,
    *,
    log: bool = False,
) -> Chart | None:
    """Return a chart with a line for each of `lines`, or None where no figure is finite.

    `before` gives a line a faint one of its colour, from before something was done. On a
    logarithmic scale figures must be above zero; the others are left out.
    """
    drawn = {kind: kept for kind, points in lines.items() if (kept := _drawable(points, log=log))}
    faint = {kind: _drawable(points, log=log) for kind, points in (before or {}).items()}
    if not drawn:
        return None
    text = f"{unit}, by block. " + "; ".join(_range(kind, drawn[kind]) for kind in drawn) + "."
    rows = math.ceil(len(drawn) / _columns(drawn))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if log:
            logarithmic(axes)
        for number, (kind, points) in enumerate(drawn.items()):
            colour, dash = line_style(number)
            if faint.get(kind):
                axes.plot(*_coordinates(faint[kind]), dash, color=colour, alpha=0.35, linewidth=1)
            axes.plot(
                *_coordinates(points),
                dash,
                color=colour,
                label=kind,
                marker="o" if len(points) == 1 else "",
                markersize=3,
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("block")
        axes.set_ylabel(unit)
        figure.legend(loc="outside upper left", ncols=_columns(drawn))

    return chart(name, title, text, draw, height=2.5 + 0.17 * rows)


def _drawable(points: Points, *, log: bool) -> Points:
    return [
        (block, figure)
        for block, figure in points
        if math.isfinite(figure) and (figure > 0 or not log)
    ]


def _coordinates(points: Points) -> tuple[list[int], list[float]]:
    return [block for block, _figure in points], [figure for _block, figure in points]


def _columns(kinds: Mapping[str, object]) -> int:
    letters = max(map(len, kinds))
    return max(1, min(len(kinds), int(340 / (28 + 4.6 * letters))))


def _range(kind: str, points: Points) -> str:
    figures = [figure for _block, figure in points]
    return f"{kind}: {significant(min(figures))} to {significant(max(figures))}"
