from __future__ import annotations

import math
from xml.etree import ElementTree

from castline.compiler.report.charts.depth import depth_chart


def strokes(svg: str, colour: int) -> int:
    """Return how many paths have the colour of a line."""
    return sum(
        f"stroke: var(--line-{colour})" in (path.get("style") or "")
        for path in ElementTree.fromstring(svg).iter("path")
    )


def test_each_kind_has_a_line_and_an_entry_of_the_legend() -> None:
    chart = depth_chart("d", "Errors", "dB", {"q": [(0, 30.0), (1, 28.5)], "up": [(1, 20.0)]})
    assert chart is not None
    assert chart.text == "dB, by block. q: 28.5 to 30; up: 20 to 20."
    assert ">q<" in chart.svg
    assert ">up<" in chart.svg
    assert strokes(chart.svg, 0) == 2  # the line and its legend


def test_figures_that_are_not_finite_are_left_out() -> None:
    lines = {"q": [(0, math.inf), (1, 28.0), (2, math.nan)], "exact": [(0, math.inf)]}
    chart = depth_chart("d", "Errors", "dB", lines)
    assert chart is not None
    assert chart.text == "dB, by block. q: 28 to 28."
    assert ">exact<" not in chart.svg


def test_without_a_finite_figure_there_is_no_chart() -> None:
    assert depth_chart("d", "Errors", "dB", {"q": [(0, math.inf)], "k": []}) is None
    assert depth_chart("d", "Errors", "dB", {"q": [(0, 0.0)]}, log=True) is None


def test_what_was_before_is_a_faint_line_of_the_same_colour() -> None:
    after, before = {"q": [(0, 5.0), (1, 4.0)]}, {"q": [(0, 40.0), (1, 30.0)]}
    chart = depth_chart("d", "Peaks", "peak", after, before, log=True)
    assert chart is not None
    assert strokes(chart.svg, 0) == 3
    assert "stroke-opacity: 0.35" in chart.svg
