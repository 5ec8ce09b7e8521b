from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from castline.compiler.report.outcome import BuildOutcome, ExportOutcome
from castline.compiler.report.page import PAGE, write_page
from castline.compiler.report.rebuilt_page import note_rebuilt

COMPILED = ExportOutcome(
    output=Path("out"),
    source="org/</header>",  # escaped in the page
    source_path=None,
    architecture="llama",
    layers=2,
    dtype="float16",
    nodes=1234,
    bytes=5_000_000,
    seconds=9.5,
)
REBUILT = BuildOutcome(
    output=Path("out"),
    target="tensorrt",
    version="10.14.1",
    bytes=3_210_000,
    seconds=12.0,
    peak_memory_bytes=2_000_000_000,
    notes=("engine: takes <batch> 1",),
    not_executed=("the engine: there is no GPU",),
)


def test_the_page_names_the_engine_that_there_is_now(tmp_path: Path) -> None:
    write_page(tmp_path, COMPILED)
    before = (tmp_path / PAGE).read_text()
    note_rebuilt(tmp_path, REBUILT)
    page = (tmp_path / PAGE).read_text()
    (section,) = re.findall(r'<section class="warning rebuilt".*?</section>\n', page, re.DOTALL)
    assert page.replace(section, "").replace("\n\n", "\n") == before.replace("\n\n", "\n")
    assert page.index("</header>") < page.index(section) < page.index("<section aria", 1)
    assert "is of tensorrt 10.14.1: 3.21 MB (3,210,000 bytes), made in 12 s with 2 GB" in section
    assert "<li>engine: takes &lt;batch&gt; 1</li>" in section
    assert "<li>Not executed: the engine: there is no GPU</li>" in section


def test_a_further_build_takes_the_place_of_the_last(tmp_path: Path) -> None:
    write_page(tmp_path, COMPILED)
    note_rebuilt(tmp_path, REBUILT)
    once = (tmp_path / PAGE).read_text()
    note_rebuilt(tmp_path, replace(REBUILT, version="11.4.0", peak_memory_bytes=None, notes=()))
    twice = (tmp_path / PAGE).read_text()
    assert twice.count('class="warning rebuilt"') == 1
    assert ("10.14.1" in twice, "tensorrt 11.4.0" in twice, "of memory" in twice) == (
        False, True, False,
    )  # fmt: skip
    note_rebuilt(tmp_path, REBUILT)
    assert (tmp_path / PAGE).read_text() == once


def test_another_folder_s_page_that_is_the_same_file_stays(tmp_path: Path) -> None:
    write_page(tmp_path, COMPILED)
    (tmp_path / "new").mkdir()
    os.link(tmp_path / PAGE, tmp_path / "new" / PAGE)
    note_rebuilt(tmp_path / "new", REBUILT)
    assert "10.14.1" in (tmp_path / "new" / PAGE).read_text()
    assert "10.14.1" not in (tmp_path / PAGE).read_text()


def test_no_page_is_made_and_none_of_another_origin_is_changed(tmp_path: Path) -> None:
    note_rebuilt(tmp_path, REBUILT)
    assert not (tmp_path / PAGE).exists()
    (tmp_path / PAGE).write_text("<h1>mine</h1>")
    note_rebuilt(tmp_path, REBUILT)
    assert (tmp_path / PAGE).read_text() == "<h1>mine</h1>"
