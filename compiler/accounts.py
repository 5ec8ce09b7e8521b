"""Say what an output is and where it comes from: its report, its plan and its manifest."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import distributions, version
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from castline.compiler.package.manifest import write_manifest
from castline.compiler.plan.decisions import QuantPlan
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.report.inspection import KindSize
from castline.compiler.report.outcome import CompileOutcome, ExportOutcome
from castline.compiler.report.page import write_page
from castline.compiler.report.record import write_report
from castline.exporters.checkpoint import Checkpoint, is_on_hub
from castline.progress import Progress

if TYPE_CHECKING:
    from castline.compiler.check.evaluation_text import HeldOutPassages, HeldOutText

PLAN = "plan"
"""The folder of an output that holds the plan it was quantized by."""
_LIBRARIES = ("onnx", "onnx-ir", "onnxscript", "torch", "transformers")
_OPTIONAL_LIBRARIES = ("onnxruntime", "onnxruntime-gpu")


def write_accounts(
    folder: Path,
    outcome: CompileOutcome,
    manifest: Mapping[str, object],
    sources: Mapping[str, str],
    kinds: Sequence[KindSize],
    plan: tuple[Path, QuantPlan] | None,
    progress: Progress,
) -> None:
    """Write what tells of a compilation beside its result, the manifest last.

    `manifest` is of `facts`, `sources` of `provenance`; `plan` is what it was quantized by, and the
    folder that holds it, which is copied. Raises OutputError when something cannot be written.
    """
    write_report(folder, outcome)
    with progress.stage("Writing the report"):
        write_page(folder, outcome, None if plan is None else plan[1], kinds, sources)
    if plan is not None:
        shutil.copytree(plan[0], folder / PLAN)
    with progress.stage("Writing the manifest"):
        write_manifest(folder, manifest)


def origin(outcome: CompileOutcome | ExportOutcome) -> dict[str, object]:
    """Return which checkpoint an outcome is of."""
    return {"source": outcome.source, "source_is_local": outcome.source_path is not None}


def hub_revision(checkpoint: Checkpoint) -> str | None:
    """Return the commit of a checkpoint that came from the Hub; None for a local one.

    The Hub's cache keeps each commit in a folder that is called by it.
    """
    if checkpoint.config_file is None or not is_on_hub(checkpoint.source):
        return None
    snapshot = checkpoint.config_file.parent
    return snapshot.name if snapshot.parent.name == "snapshots" else None


def provenance(sha256: str, text: HeldOutText | HeldOutPassages | None) -> dict[str, str]:
    """Return what the report says of where things come from, beside the calibration text."""
    judged = {} if text is None else {"Evaluation text": f"{text.source}, SHA-256 {text.sha256}"}
    return {"Checkpoint, SHA-256": sha256} | judged | _libraries()


def _libraries() -> dict[str, str]:
    """Return the version of every library that a result depends on, as far as installed."""
    installed = [name for name in _OPTIONAL_LIBRARIES if any(distributions(name=name))]
    return {name: version(name) for name in (*_LIBRARIES, *installed)}


def facts(
    outcome: CompileOutcome,
    sha256: str,
    recipe: Recipe,
    float_type: ir.DataType,
    text: HeldOutText | HeldOutPassages | None,
    build: Mapping[str, object],
    *,
    revision: str | None,
    plan: QuantPlan | None,
) -> dict[str, object]:
    """Return what the manifest says; nothing in it depends on the hour or the machine's speed.

    `revision` is that of `hub_revision`. What each field holds stands in `package.manifest`.
    """
    calibration = None if plan is None else asdict(plan.identity.calibration)
    compared = outcome.to_json()
    return {
        **origin(outcome),
        "checkpoint_revision": revision,
        "checkpoint_sha256": sha256,
        "recipe": recipe.model_dump(),
        "target": outcome.target,
        "dtype": float_type.numpy().name,
        "build": build,
        "libraries": _libraries(),
        "calibration": calibration,
        "evaluation_text": None if text is None else {"source": text.source, "sha256": text.sha256},
        "figures": {key: compared[key] for key in ("language", "encoding", "tensors", "verdicts")},
        "bits_per_weight": outcome.bits_per_weight,
        "not_executed": list(outcome.not_executed),
    }
