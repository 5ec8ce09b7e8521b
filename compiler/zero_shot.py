"""Let a compiled folder and its original answer multiple-choice questions, and compare them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch

from castline.compiler.check.memory import available_memory, require_memory
from castline.compiler.check.original import OriginalModel
from castline.compiler.check.provenance import opening_title, recorded_source, require_recorded
from castline.compiler.check.tasks.answers import (
    Answers,
    TasksFigures,
    answers,
    compare_answers,
    summed_up,
)
from castline.compiler.check.tasks.finding import find_tasks
from castline.compiler.check.tasks.pairs import PairEncoder
from castline.compiler.check.tasks.readers import OriginalReader, Reader, SessionReader
from castline.compiler.check.tasks.task import Task
from castline.compiler.package.manifest import read_manifest
from castline.compiler.report.plain import PlainValues
from castline.compiler.report.record import read_report
from castline.compiler.targets.session import DecoderSession
from castline.compiler.targets.unpacked import loading_bytes
from castline.compiler.targets.write import MODEL
from castline.compiler.to_huggingface import HUGGINGFACE
from castline.errors import UnsupportedArchitectureError
from castline.exporters.checkpoint import Checkpoint, open_checkpoint
from castline.exporters.context import context_length
from castline.exporters.interface import interface_of
from castline.progress import Progress, SilentProgress

_FLOAT32 = 4  # bytes a weight
_ELSEWHERE = "Run castline check where there is more memory."


@dataclass(frozen=True, kw_only=True)
class TasksOutcome(PlainValues):
    """How an output and its original answer the same questions."""

    output: Path
    against: str
    figures: TasksFigures
    seconds: float
    notes: tuple[str, ...] = ()


def compare_on_tasks(
    output: Path,
    tasks: Sequence[str],
    *,
    folder: Path | None = None,
    limit: int | None = None,
    against: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> TasksOutcome:
    """Let the model in `output` and its original, in torch and float32, answer `tasks`.

    Tasks are found as `find_tasks` says, with `folder` before packages; `limit` keeps the first
    documents of each. The original is the checkpoint that `output` was compiled from, or `against`.
    Raises UnsupportedArchitectureError for an encoder, CheckpointError as `check_output` does, and
    OutputError for a task that is missing or broken.
    """
    started = time.perf_counter()
    progress = progress or SilentProgress()
    manifest = read_manifest(output)
    source = against or recorded_source(output, manifest, read_report(output) or {})
    with progress.stage(opening_title(source)):
        checkpoint = open_checkpoint(source)
    _require_decoder(checkpoint)
    with progress.stage("Reading the tasks"):
        found = find_tasks(tasks, folder, limit)
    notes = () if against else require_recorded(checkpoint, output, manifest, progress)
    written = open_checkpoint(output) if manifest.get("target") == HUGGINGFACE else None
    _require_memory(checkpoint, output, written)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        # One model at a time is in memory; the result goes first, for how much it can read.
        reader, most = _result(output, written, threads)
        most = min(most or context_length(checkpoint.config), context_length(checkpoint.config))
        asking = _Asking(found, PairEncoder(checkpoint.tokenizer(), most), progress)
        result = asking.all(reader, "the result")
        del reader
        original = asking.all(OriginalReader(OriginalModel.load(checkpoint)), "the original")
    finally:
        torch.set_num_threads(before)
    compared = [compare_answers(*three) for three in zip(found, original, result, strict=True)]
    return TasksOutcome(
        output=output,
        against=source,
        figures=summed_up(compared),
        seconds=time.perf_counter() - started,
        notes=notes,
    )


@dataclass(frozen=True)
class _Asking:
    """Everything that both models are asked, and how."""

    tasks: tuple[Task, ...]
    encoder: PairEncoder
    progress: Progress

    def all(self, reader: Reader, who: str) -> list[Answers]:
        return [answers(reader, task, self.encoder, self.progress, who) for task in self.tasks]


def _result(
    output: Path, written: Checkpoint | None, threads: int | None
) -> tuple[Reader, int | None]:
    """Return the result, ready to read, and how many tokens it reads where it says so."""
    if written is not None:
        return OriginalReader(OriginalModel.load(written)), None
    session = DecoderSession.open(output, threads=threads)
    return SessionReader(session), session.context_length


def _require_decoder(checkpoint: Checkpoint) -> None:
    if not interface_of(checkpoint.config).cached:
        raise UnsupportedArchitectureError(
            f"{checkpoint.source} is an encoder, and answers no questions. Compare its vectors: "
            "castline check OUT, without --tasks."
        )


def _require_memory(checkpoint: Checkpoint, output: Path, written: Checkpoint | None) -> None:
    weights = sum(spec.size for spec in checkpoint.tensors.values()) * _FLOAT32
    size = weights if written else loading_bytes(ir.load(output / MODEL))
    require_memory(checkpoint, size, available_memory(), _ELSEWHERE)
