"""Write architectures.md from what the tests of every architecture came to.

    python docs/generate_architectures.py [--junit REPORT.xml ...]

Without --junit the sweeps run first, which takes minutes; the one of TensorRT-RTX runs where it is
installed.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architectures.md"
SWEEPS = (
    "tests/exporters/test_architectures.py::test_equals_hugging_face",
    "tests/compiler/graph/folds/test_plan.py::test_folding_every_site_changes_nothing",
    "tests/compiler/targets/test_onnxruntime.py"
    "::test_every_architecture_computes_what_its_neutral_form_does",
)
ENGINES = (
    "tests/compiler/targets/tensorrt/test_target.py::test_every_architecture_becomes_an_engine"
)
LIBRARIES = ("torch", "transformers", "onnxruntime")
HEADINGS = (
    "architecture", "export: worst relative error", "folds: sites, worst relative error",
    "w4a16 on onnx, onnxruntime", "w8a16 on onnx, onnxruntime", "w4a16 on tensorrt-rtx",
)  # fmt: skip
NOT_RUN = "not run"
INTRODUCTION = """\
# Architectures

Written by `python docs/generate_architectures.py` from the outcome of the tests; edit the script,
not this page. Run with {libraries}.

Each row is a tiny model of random weights, as `tests/architectures.yaml` has it. *Export* compares
the graph on ONNX Runtime with Hugging Face's code in float32: a prompt, decoding with the cache and
a padded batch; for encoders the hidden states. *Folds* counts the sites where the fold planner
allows a scale, of all, and gives the largest change of the output in float64 after random scales
were folded into all of them. *w4a16* and *w8a16* compare the `onnxruntime` form of the quantized
graph with the `onnx` form, with float32 activations, and note what keeps a slower form. Engines are
built for TensorRT-RTX and not executed: that needs a GPU.

What is not in the list is tried on a few of its own layers with random weights when you export it,
and refused with the reason where that fails. [Adding an architecture](adding-an-architecture.md)
says how one gets into the list.

"""


@dataclass
class Row:
    """What the tests found of one architecture; a test that failed leaves its reason."""

    name: str
    outcomes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One test of one architecture."""

    sweep: str
    parameters: str
    failed: bool
    properties: Mapping[str, str]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--junit", nargs="*", type=Path, help="reports of sweeps that ran")
    reports = arguments.parse_args().junit or run_sweeps()
    rows = rows_of(case for report in reports for case in cases(report))
    PAGE.write_text(page(rows), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(rows)} architectures")


def run_sweeps() -> list[Path]:
    """Run the sweeps, and return their reports; a failing test is a row's outcome, no error."""
    folder = Path(tempfile.mkdtemp())
    runs: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [("default", SWEEPS, ())]
    if find_spec("tensorrt_rtx"):
        runs.append(("engines", (ENGINES,), ("-m", "tensorrt")))
    reports = []
    for name, tests, options in runs:
        report = folder / f"{name}.xml"
        command = [sys.executable, "-m", "pytest", "-q", *options, f"--junitxml={report}", *tests]
        subprocess.run(command, cwd=ROOT, check=False)
        reports.append(report)
    return reports


def cases(report: Path) -> Iterable[Case]:
    """Yield the tests of a report that are of one architecture."""
    for element in ElementTree.parse(report).getroot().iter("testcase"):
        found = re.fullmatch(r"(\w+)\[(.+)\]", element.get("name", ""))
        if found:
            properties = {p.get("name", ""): p.get("value", "") for p in element.iter("property")}
            failed = element.find("failure") is not None or element.find("error") is not None
            yield Case(found[1], found[2], failed, properties)


def rows_of(found: Iterable[Case]) -> list[Row]:
    """Return a row for each architecture, in the order of the tests."""
    rows: dict[str, Row] = {}
    for case in found:
        name = case.properties.get("architecture") or re.sub(r"-\d+$", "", case.parameters)
        row = rows.setdefault(name, Row(name))
        row.outcomes[column(case)] = "**fails**" if case.failed else told(case.properties)
    return list(rows.values())


def column(case: Case) -> str:
    """Return the heading under which a test's outcome stands."""
    if "hugging_face" in case.sweep:
        return HEADINGS[1]
    if "folding" in case.sweep:
        return HEADINGS[2]
    if "engine" in case.sweep:
        return HEADINGS[5]
    return HEADINGS[3] if case.parameters.endswith("-4") else HEADINGS[4]


def told(properties: Mapping[str, str]) -> str:
    """Return an outcome in a few words."""
    if "engine bytes" in properties:
        return "built"
    words = []
    if "folds" in properties:
        reasons = ast.literal_eval(properties["folds"]).values()
        words.append(f"{sum(reason is None for reason in reasons)} of {len(reasons)}")
    if "worst relative error" in properties:
        words.append(f"{float(properties['worst relative error']):.0e}")
    if properties.get("notes"):
        words.append(properties["notes"])
    return ", ".join(words)


def page(rows: Iterable[Row]) -> str:
    """Return the page in Markdown."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    lines = [f"| {' | '.join(HEADINGS)} |", f"| {' | '.join('---' for _ in HEADINGS)} |"]
    for row in rows:
        cells = (row.outcomes.get(heading, NOT_RUN) for heading in HEADINGS[1:])
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return INTRODUCTION.format(libraries=libraries) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
