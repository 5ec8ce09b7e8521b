from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.figure import Figure

from castline.compiler.report.charts.canvas import Chart, chart, line_style, logarithmic


def ramp(figure: Figure) -> None:
    figure.subplots().plot([0, 1], [0, 1], color=line_style(0)[0], label="<a> & $b$")
    figure.legend()


def drawn(name: str = "ramp", title: str = "A ramp") -> Chart:
    return chart(name, title, "It rises.", ramp)


def test_takes_its_colours_from_the_page() -> None:
    svg = drawn().svg
    assert "stroke: var(--line-0)" in svg
    assert "fill: var(--soft)" in svg
    assert re.findall(r"#fe0\w+", svg) == []


def test_is_one_element_with_a_title_and_a_text_for_those_who_do_not_see_it() -> None:
    root = ElementTree.fromstring(drawn(title="Up & <up>").svg)
    assert root.tag == "svg"
    assert root.attrib["aria-labelledby"] == "ramp-title ramp-text"
    assert [(one.tag, one.text) for one in root[:2]] == [
        ("title", "Up & <up>"),
        ("desc", "It rises."),
    ]


def test_letters_are_text_as_they_are_given() -> None:
    texts = [one.text for one in ElementTree.fromstring(drawn().svg).iter("text")]
    assert "<a> & $b$" in texts


def test_the_same_drawing_gives_the_same_bytes() -> None:
    assert drawn() == drawn()


def test_no_name_is_in_two_charts_of_a_page() -> None:
    one, other = (set(re.findall(r' id="([^"]*)"', drawn(name).svg)) for name in ("a", "b"))
    assert one
    assert not one & other


def test_needs_nothing_from_elsewhere() -> None:
    svg = drawn().svg
    assert set(re.findall(r'href="(.)', svg)) <= {"#"}
    assert "<style" not in svg
    assert "http" not in svg


def test_leaves_the_settings_of_others_alone() -> None:
    with mpl.rc_context({"font.size": 17.0}):
        drawn()
        assert mpl.rcParams["font.size"] == 17.0
        assert mpl.rcParams["svg.hashsalt"] is None


def test_settings_of_others_do_not_change_the_chart() -> None:
    before = drawn()
    with mpl.rc_context({"font.size": 17.0, "lines.linewidth": 4.0}):
        assert drawn() == before


def test_lines_past_the_last_colour_are_dashed() -> None:
    styles = [line_style(number) for number in range(24)]
    assert len(set(styles)) == 24
    assert [dash for _colour, dash in styles[:9]] == ["-"] * 8 + ["--"]


def test_a_logarithmic_height_has_plain_numbers_beside_it() -> None:
    def draw(figure: Figure, most: float) -> None:
        axes = figure.subplots()
        logarithmic(axes)
        axes.plot([0, 1], [1, most])

    wide = chart("wide", "", "", lambda figure: draw(figure, 50_000)).svg
    assert ">10,000<" in wide
    assert ">2<" not in wide
    narrow = chart("narrow", "", "", lambda figure: draw(figure, 8)).svg
    assert ">2<" in narrow
    assert ">5<" in narrow
    assert ">3<" not in narrow
