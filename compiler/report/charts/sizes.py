"""Draw what the layers of each kind weigh, before and after."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from castline.compiler.report.charts.canvas import LINES, Chart, chart
from castline.compiler.report.inspection import KindSize
from castline.compiler.report.numbers import size

_FLOAT32_BYTES = 4
_BAR = 0.38  # of the height of a row


def size_chart(kinds: Sequence[KindSize]) -> Chart | None:
    """Return bars for the size of each kind, and in float32; None where nothing has weights."""
    shown = sorted((kind for kind in kinds if kind.parameters), key=lambda kind: kind.parameters)
    if not shown:
        return None
    text = "; ".join(
        f"{kind.kind}: {size(kind.bytes)}, in float32 {size(_original(kind))}"
        for kind in reversed(shown)
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        rows = range(len(shown))
        before = [_original(kind) / 1e6 for kind in shown]
        after = [kind.bytes / 1e6 for kind in shown]
        upper = axes.barh([row + _BAR / 2 for row in rows], before, _BAR, color=LINES[1], alpha=0.5)
        lower = axes.barh([row - _BAR / 2 for row in rows], after, _BAR, color=LINES[0])
        axes.bar_label(upper, [size(_original(kind)) for kind in shown], padding=3, fontsize=8)
        axes.bar_label(lower, [size(kind.bytes) for kind in shown], padding=3, fontsize=8)
        upper.set_label("in float32")
        lower.set_label("here")
        axes.set_yticks(list(rows), [kind.kind for kind in shown])
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.set_xlim(0, 1.22 * max(before + after))  # room for the figures beside the bars
        figure.legend(loc="outside upper left", ncols=2)

    return chart("sizes", "Size by kind of layer", f"{text}.", draw, 0.5 + 0.45 * len(shown))


def _original(kind: KindSize) -> int:
    return kind.parameters * _FLOAT32_BYTES
