"""Write report.html: one page, complete in itself, that says what a compilation came to."""

# ruff: noqa: PLC0415 - matplotlib takes a second, which a wrong flag must not wait for.

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

import castline
from castline.compiler.plan.decisions import CalibrationFacts, QuantPlan
from castline.compiler.report import numbers
from castline.compiler.report.comparison_rows import figure_rows, verdict_row
from castline.compiler.report.inspection import KindSize
from castline.compiler.report.outcome import CompileOutcome, ExportOutcome
from castline.compiler.report.plain import plain
from castline.compiler.report.plan_rows import (
    block_rows,
    declined_rows,
    divided_rows,
    kept_rows,
    unreached_rows,
    worst_rows,
)
from castline.compiler.report.reassembly_rows import correction_rows, reassembly_rows

PAGE = "report.html"
_WORST = 8


def write_page(
    folder: Path,
    outcome: CompileOutcome | ExportOutcome,
    plan: QuantPlan | None = None,
    kinds: Sequence[KindSize] = (),
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Write `folder`/report.html, which needs no other file, no network and no scripts.

    `kinds` is what inspect_graph says of the result; `provenance` goes into the table of where
    things come from, such as {"Checkpoint SHA-256": ...}. The same arguments give the same bytes.
    """
    text = (
        environment()
        .get_template("page.html")
        .render(
            _facts(outcome)
            | _measured(outcome)
            | _planned(plan)
            | {
                "kinds": kinds,
                "kind_charts": _kind_charts(kinds),
                "provenance": _provenance(plan) | dict(provenance or {}),
            }
        )
    )
    (folder / PAGE).write_text(text, encoding="utf-8", newline="\n")


def environment() -> jinja2.Environment:
    """Return what renders the templates of pages; it escapes values, and refuses unknown ones."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("castline.compiler.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for words in (numbers.size, numbers.significant, numbers.duration, numbers.percentage):
        made.filters[words.__name__] = words
    return made


def _facts(outcome: CompileOutcome | ExportOutcome) -> dict[str, object]:
    """Return the heading: no absolute path, as pages are passed on."""
    model = outcome.source if outcome.source_path is None else outcome.source_path.name
    if isinstance(outcome, CompileOutcome):
        facts = {"Recipe": outcome.recipe, "Target": outcome.target}
    else:
        facts = {
            "Architecture": outcome.architecture,
            "Layers": str(outcome.layers),
            "Weights": outcome.dtype,
            "Nodes": f"{outcome.nodes:,}",
            "Size": numbers.size(outcome.bytes),
        }
    return {
        "model": model,
        "facts": facts | {"Took": numbers.duration(outcome.seconds)},
        "notes": outcome.notes,
    }


def _measured(outcome: CompileOutcome | ExportOutcome) -> dict[str, object]:
    if isinstance(outcome, ExportOutcome):
        return {"compiled": False, "figures": (), "verdicts": (), "tensors": (), "not_executed": ()}
    return {
        "compiled": True,
        "passed": outcome.passed,
        "figures": figure_rows(outcome),
        "verdicts": tuple(map(verdict_row, outcome.verdicts)),
        "tensors": () if outcome.tensors is None else outcome.tensors.outputs,
        "tokens": _tokens(outcome),
        "speed": outcome.speed,
        "not_executed": outcome.not_executed,
    }


def _tokens(outcome: CompileOutcome) -> int | None:
    """Return on how many tokens of held-out text both models were compared."""
    figures = outcome.language or outcome.encoding
    return None if figures is None else figures.tokens


def _planned(plan: QuantPlan | None) -> dict[str, object]:
    if plan is None:
        return {"plan": None}
    from castline.compiler.report.plan_charts import depth_charts, site_charts

    return {
        "plan": plan,
        "smoothed": any(site.scale is not None for site in plan.sites),
        "clipped": any(linear.clipped is not None for linear in plan.linears.values()),
        "blocks": block_rows(plan),
        "worst": worst_rows(plan, _WORST),
        "kept": kept_rows(plan),
        "declined": declined_rows(plan),
        "divided": divided_rows(plan),
        "unreached": unreached_rows(plan),
        "reassembled": reassembly_rows(plan),
        "corrected": correction_rows(plan),
        "depth_charts": depth_charts(plan),
        "site_charts": site_charts(plan),
        "recipe_text": json.dumps(plain(plan.recipe), indent=2, ensure_ascii=False),
    }


def _kind_charts(kinds: Sequence[KindSize]) -> tuple[object, ...]:
    if not kinds:
        return ()
    from castline.compiler.report.charts.sizes import size_chart

    return tuple(chart for chart in (size_chart(kinds),) if chart is not None)


def _provenance(plan: QuantPlan | None) -> dict[str, str]:
    if plan is None:
        return {"Castline": castline.__version__}
    identity = plan.identity
    return {
        "Castline": identity.version,
        "Checkpoint, SHA-256": identity.checkpoint_sha256,
        "Calibration text": _calibration(identity.calibration),
        "Calibration text, SHA-256": identity.calibration.sha256,
    }


def _calibration(facts: CalibrationFacts) -> str:
    source = "the text that ships with Castline" if facts.source == "shipped" else facts.source
    template = ", in the chat template" if facts.chat_template else ""
    return (
        f"{source}: {facts.samples} samples of {facts.length} tokens, seed {facts.seed}{template}"
    )
