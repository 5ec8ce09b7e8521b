"""Draw a chart as SVG that takes its colours and its font from the page around it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from io import StringIO

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from castline.compiler.report.numbers import significant

_WIDTH = 5.0  # inches of 72 units: letters of 9 units can still be read when 360 pixels show it all

# Colours that nothing else has; the page's style says what they are, by day and by night.
_PAGE_COLOURS = {f"#fe01{number:02x}": f"var(--line-{number})" for number in range(8)}
_INK, _GRID = "#fe0200", "#fe0201"
_PAGE_COLOURS |= {_INK: "var(--soft)", _GRID: "var(--grid)"}
LINES = tuple(_PAGE_COLOURS)[:8]
"""Colours of lines, told apart by those who see few colours, too."""
_FEW_DECADES = 10**1.7
_DASHES = ("-", "--", ":")

_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlepad": 4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.5,
    "xtick.bottom": False,
    "ytick.left": False,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "legend.labelcolor": _INK,
    "lines.linewidth": 1.3,
    "lines.solid_capstyle": "round",
    "text.color": _INK,
    "text.parse_math": False,  # a layer may be called anything
}

_OPENING = re.compile(r".*?<svg[^>]*>", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_STYLE_RULE = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_EMPTY_GROUP = re.compile(r'<g id="[^"]*"\s*/>')
_GROUP_NAME = re.compile(r'<g id="[^"]*">')
_FONT = re.compile(r"font: ([\d.]+)px [^;\"]*")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_COORDINATES = re.compile(r' (?:d|x|y|transform|width|height)="[^"]*"')
_BLANKS = re.compile(r"\s*\n\s*")


@dataclass(frozen=True)
class Chart:
    """A picture and what it says."""

    title: str
    text: str
    """What the picture shows, for those who do not see it."""
    svg: str
    """An <svg> element for a page of HTML, without colours of its own."""


def chart(
    name: str, title: str, text: str, draw: Callable[[Figure], None], height: float = 2.6
) -> Chart:
    """Return what `draw` puts on an empty figure, `height` inches high.

    `name` tells it from the other charts of the page. The same drawing gives the same bytes.
    """
    with style.context(["default", {**_STYLE, "svg.hashsalt": name}]):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure)
        buffer = StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    opening = (
        f'<svg viewBox="0 0 {72 * _WIDTH:g} {72 * height:g}" role="img" '
        f'aria-labelledby="{name}-title {name}-text"><title id="{name}-title">{escape(title)}'
        f'</title><desc id="{name}-text">{escape(text)}</desc>'
    )
    return Chart(title, text, _slim(_OPENING.sub(lambda _match: opening, buffer.getvalue(), 1)))


def line_style(number: int) -> tuple[str, str]:
    """Return colour and dash of the `number`-th line of a chart."""
    return LINES[number % len(LINES)], _DASHES[number // len(LINES) % len(_DASHES)]


def logarithmic(axes: Axes) -> None:
    """Give `axes` a logarithmic height with plain numbers beside it."""

    def between(value: float, _place: float) -> str:
        """Name 2 and 5, too, where there are few powers of ten."""
        least, most = axes.get_ylim()
        few = most < _FEW_DECADES * least
        return significant(value) if few and significant(value).lstrip("0.")[:1] in "25" else ""

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _place: significant(value))
    axes.yaxis.set_minor_formatter(between)


def _slim(svg: str) -> str:
    """Take out what a page does not need, and put the page's colours in."""
    for unneeded in (_METADATA, _STYLE_RULE, _COMMENT, _EMPTY_GROUP):
        svg = unneeded.sub("", svg)
    svg = _GROUP_NAME.sub("<g>", svg.replace("xlink:href", "href"))
    svg = _FONT.sub(r"font-size: \1px", svg)
    svg = _COORDINATES.sub(lambda match: _LONG_NUMBER.sub(_short, match[0]), svg)
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    return _BLANKS.sub(" ", svg).replace("> <", "><").strip()


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
