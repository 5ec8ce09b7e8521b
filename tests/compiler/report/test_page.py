from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from castline.compiler.check.gate import Verdict
from castline.compiler.check.language import LanguageFigures
from castline.compiler.check.measured import Speed
from castline.compiler.check.tensors import TensorFigure, TensorFigures
from castline.compiler.report.inspection import KindSize
from castline.compiler.report.outcome import CompileOutcome, ExportOutcome
from castline.compiler.report.page import PAGE, write_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from castline.compiler.plan.decisions import QuantPlan

KINDS = (KindSize("mlp", 3_000_000, 3_200_000, 8.5), KindSize("norm", 64, 256, 32.0))
COMPILED = CompileOutcome(
    output=Path("out"),
    source="org/model",
    source_path=None,
    recipe="w8a8-smoothquant",
    target="onnxruntime",
    language=LanguageFigures(40.0, 42.0, 0.0123, 0.932, 4096),
    tensors=TensorFigures((TensorFigure("logits", 0.0456, 0.99987),)),
    verdicts=(Verdict("kl divergence", 0.0123, 0.05, True),),
    original_bytes=12_000_000,
    bytes=3_210_000,
    original_speed=Speed(100.0, 10.0, 2),
    speed=Speed(150.0, 30.0, 2),
    bits_per_weight=8.56,
    seconds=83.2,
    notes=("the head stays in float",),
)
EXPORTED = ExportOutcome(
    output=Path("out"),
    source="/home/somebody/models/llama-2b",
    source_path=Path("/home/somebody/models/llama-2b"),
    architecture="llama",
    layers=2,
    dtype="float16",
    nodes=1234,
    bytes=5_000_000,
    seconds=9.5,
    notes=("no tokenizer was written",),
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
VOID = ("meta", "br", "hr", "img", "link", "input")


class Elements(HTMLParser):
    """Follows the tags of a page, and says which was closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())

    def values(self, name: str) -> list[str]:
        return [value for attribute, value in self.attributes if attribute == name]


def elements(folder: Path) -> Elements:
    parsed = Elements()
    parsed.feed((folder / PAGE).read_text(encoding="utf-8"))
    parsed.close()
    assert parsed.open == []
    return parsed


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, plan_of: Callable[..., QuantPlan]) -> Path:
    """Return the folder of a page with all that a page can have."""
    folder = tmp_path_factory.mktemp("full")
    write_page(folder, COMPILED, plan_of(), KINDS, {"PyTorch": "2.99"})
    return folder


def test_has_the_figures_and_what_is_said_of_them(full: Path) -> None:
    text = elements(full).text
    for shown in (
        "org/model",
        "w8a8-smoothquant",
        "onnxruntime",
        "Passed",
        "42",
        "93.2 %",
        "3.21 MB",
        "3.74× smaller",
        "3× as fast",
        "0.0456",
        "0.99987",
        "≤ 0.05",
        "the head stays in float",
        "self_attn.q_proj",
        "exact",
        "it reads 4,000 times the median",
        "nothing takes the scale up",
        "Outliers by channel, before and after scaling",
        "d" * 64,
        "c" * 64,
        "the text that ships with Castline: 8 samples of 128 tokens, seed 0, in the chat template",
        "2.99",
    ):
        assert shown in text


def test_needs_nothing_from_elsewhere(full: Path) -> None:
    page = elements(full)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert page.values("src") == []
    assert all(link.startswith("#") for link in page.values("href"))
    assert "://" not in (full / PAGE).read_text(encoding="utf-8")
    assert [path.name for path in full.iterdir()] == [PAGE]


def test_can_be_read_without_seeing_it(full: Path) -> None:
    page = elements(full)
    names = page.values("id")
    assert len(names) == len(set(names))
    labels = " ".join(page.values("aria-labelledby")).split()
    assert set(labels) <= set(names)
    assert page.tags.count("svg") == page.tags.count("desc") == 10
    assert set(page.values("scope")) == {"col", "row", "rowgroup"}
    assert page.tags.count("h1") == 1


def test_every_reference_within_a_chart_leads_somewhere(full: Path) -> None:
    names = set(elements(full).values("id"))
    used = re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)", (full / PAGE).read_text("utf-8"))
    assert {one or other for one, other in used} <= names


def test_what_a_model_is_called_is_no_markup(
    tmp_path: Path, plan_of: Callable[..., QuantPlan]
) -> None:
    name = "<script>alert('&')</script>"
    write_page(
        tmp_path, replace(COMPILED, source=name, notes=(name,)), plan_of(), KINDS, {name: name}
    )
    page = elements(tmp_path)
    assert "script" not in page.tags
    assert page.text.count(name) == 4  # heading, note, and both columns of the provenance


def test_the_same_outcome_gives_the_same_bytes(
    tmp_path: Path, full: Path, plan_of: Callable[..., QuantPlan]
) -> None:
    write_page(tmp_path, COMPILED, plan_of(), KINDS, {"PyTorch": "2.99"})
    assert (tmp_path / PAGE).read_bytes() == (full / PAGE).read_bytes()


def test_without_a_plan_nothing_is_said_of_one(tmp_path: Path) -> None:
    write_page(tmp_path, COMPILED, kinds=KINDS)
    page = elements(tmp_path)
    assert page.values("id")[:3] == ["verdict", "limits", "comparison"]
    assert not {"outliers", "depth", "linears"} & set(page.values("id"))
    assert page.tags.count("svg") == 1
    assert "The recipe" not in page.text


def test_a_plan_without_smoothing_has_no_column_for_it(
    tmp_path: Path, plan_of: Callable[..., QuantPlan]
) -> None:
    write_page(tmp_path, COMPILED, plan_of(smoothed=False))
    text = elements(tmp_path).text
    assert "Outliers by channel" in text
    assert "Peak" in text
    assert not {"Peak after", "Alpha", "No scale folded"} & set(text)


def test_a_plan_of_awq_says_what_it_clipped_divided_and_never_reached(
    tmp_path: Path, plan_of: Callable[..., QuantPlan]
) -> None:
    plan = plan_of(1)
    (block,) = plan.blocks
    linears = (replace(block.linears[0], clipped=0.25, unreached=(3,)), *block.linears[1:])
    sites = (block.sites[0], replace(block.sites[1], explicit=True))
    blocks = (replace(block, linears=linears, sites=sites),)
    other = replace(plan, recipe={**plan.recipe, "algorithm": "awq"}, blocks=blocks)
    write_page(tmp_path, COMPILED, other)
    text = " ".join(elements(tmp_path).text)
    for words in ("Clipped", "25.0 %", "q_proj, expert 3", "Divided by a scale in the graph"):
        assert words in text
    assert "before and after scaling" in text


def test_without_a_gate_it_is_not_judged(tmp_path: Path) -> None:
    bare = replace(
        COMPILED,
        language=None,
        tensors=None,
        verdicts=(),
        original_speed=None,
        speed=None,
        notes=(),
    )
    write_page(tmp_path, bare)
    page = elements(tmp_path)
    assert "Not judged" in page.text
    assert "Passed" not in page.text
    assert not {"limits", "sizes", "notes", "not-executed"} & set(page.values("id"))
    assert "Outputs for the same input" not in page.text


def test_a_figure_beyond_its_limit_and_what_was_not_run_are_plain_to_see(tmp_path: Path) -> None:
    failed = replace(
        COMPILED,
        verdicts=(Verdict("kl divergence", 0.5, 0.05, True),),
        not_executed=("the engine was not run",),
    )
    write_page(tmp_path, failed)
    text = elements(tmp_path).text
    assert "Failed" in text
    assert text.index("the engine was not run") < text.index("Failed")


def test_an_export_has_its_facts_and_no_path_of_the_machine(tmp_path: Path) -> None:
    write_page(tmp_path, EXPORTED, kinds=KINDS)
    page = elements(tmp_path)
    assert {"llama-2b", "llama", "float16", "1,234", "5 MB", "no tokenizer was written"} <= set(
        page.text
    )
    assert "verdict" not in page.values("id")
    assert "/home/somebody" not in (tmp_path / PAGE).read_text(encoding="utf-8")


def test_a_deep_model_has_a_page_of_less_than_a_megabyte(
    tmp_path: Path, plan_of: Callable[..., QuantPlan]
) -> None:
    write_page(tmp_path, COMPILED, plan_of(80), KINDS)
    assert (tmp_path / PAGE).stat().st_size < 1_000_000


def test_matplotlib_waits_until_there_is_something_to_draw() -> None:
    program = "import sys, castline.compiler.report.page; print('matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1400])
def test_a_browser_shows_it_without_complaint_and_within_its_width(
    tmp_path: Path, plan_of: Callable[..., QuantPlan], width: int
) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no browser is installed")
    long = replace(COMPILED, source="organization/" + "a-very-long-name-of-a-model" * 4)
    write_page(tmp_path, long, plan_of(30), KINDS)
    page = (tmp_path / PAGE).read_text(encoding="utf-8").replace("<details>", "<details open>")
    frame = (
        tmp_path / "frame.html"
    )  # browsers without a screen have a least width; frames have none
    frame.write_text(
        f'<iframe style="width:{width}px;height:900px" srcdoc="{escape(page)}" onload="'
        "document.title = this.contentDocument.documentElement.scrollWidth + ' of ' + "
        'this.contentDocument.documentElement.clientWidth"></iframe>',
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout)
    assert found is not None, done.stdout[:500]
    assert int(found[1]) <= int(found[2])
    assert int(found[2]) > width - 30
    assert "CONSOLE" not in done.stderr
