"""Compare a compiled folder with its original again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from castline.compiler.check.checkpoint_pair import opened_checkpoints
from castline.compiler.check.comparison import opened_pair
from castline.compiler.check.evaluation_text import held_out_text
from castline.compiler.check.memory import available_memory, require_memory
from castline.compiler.check.provenance import opening_title, recorded_source, require_recorded
from castline.compiler.package.manifest import read_manifest
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.recipes.thresholds import Thresholds
from castline.compiler.report.outcome import CheckOutcome
from castline.compiler.report.record import read_report
from castline.compiler.targets.unpacked import unpacked_bytes
from castline.compiler.targets.write import MODEL
from castline.compiler.to_huggingface import HUGGINGFACE
from castline.exporters.checkpoint import open_checkpoint
from castline.progress import Progress, SilentProgress

_FLOAT32 = 4  # bytes a weight
_ELSEWHERE = "Run castline check where there is more memory."


def check_output(
    output: Path,
    *,
    against: str | None = None,
    evaluation_text: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> CheckOutcome:
    """Compare a compiled folder with its original, or with the checkpoint `against`.

    The original is the checkpoint it was compiled from; CheckpointError if that is gone or has
    changed since.
    """
    started = time.perf_counter()
    progress = progress or SilentProgress()
    manifest = read_manifest(output)
    source = against or recorded_source(output, manifest, read_report(output) or {})
    with progress.stage(opening_title(source)):
        checkpoint = open_checkpoint(source)
    notes = () if against else require_recorded(checkpoint, output, manifest, progress)
    with progress.stage("Reading the evaluation text"):
        text = held_out_text(checkpoint, evaluation_text)
    is_checkpoint = manifest.get("target") == HUGGINGFACE
    # A checkpoint runs as the original does, in float32.
    weights = sum(spec.size for spec in checkpoint.tensors.values())
    size = weights * _FLOAT32 if is_checkpoint else unpacked_bytes(ir.load(output / MODEL))
    require_memory(checkpoint, size, available_memory(), _ELSEWHERE)
    opened = opened_checkpoints if is_checkpoint else opened_pair
    with opened(checkpoint, output, text, threads=threads, progress=progress) as pair:
        measured = pair.measure(_thresholds(manifest), progress)
    return CheckOutcome(
        output=output,
        against=source,
        language=measured.language,
        encoding=measured.encoding,
        tensors=measured.tensors,
        verdicts=measured.verdicts,
        seconds=time.perf_counter() - started,
        notes=notes,
        not_executed=_not_executed(manifest),
    )


def _thresholds(manifest: Mapping[str, object]) -> Thresholds:
    given = manifest.get("recipe")
    return Recipe.model_validate(given).gate if given else Thresholds()


def _not_executed(manifest: Mapping[str, object]) -> tuple[str, ...]:
    listed = manifest.get("not_executed")
    return tuple(map(str, listed)) if isinstance(listed, list) else ()
