"""Have a builder's process do one job, and let what it wrote appear only when all went well."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from castline.compiler.targets.tensorrt.authors import authors
from castline.compiler.targets.tensorrt.edition import Edition
from castline.compiler.targets.tensorrt.environment import builder_environment
from castline.compiler.targets.tensorrt.job import Job, Outcome
from castline.compiler.targets.tensorrt.refusals import grouped, remarks
from castline.compiler.targets.tensorrt.supervise import builder_errors, last_lines, supervise
from castline.errors import OutputError, TargetError

# -P keeps the working folder, which may be a downloaded model, out of the child's module path.
CHILD = (sys.executable, "-P", "-m", "castline.compiler.targets.tensorrt.child")


def outcome_of(job: Job, scratch: Path, edition: Edition, log: Path, model: Path) -> Outcome:
    """Return what the child says of the engine it wrote; `model` is named in errors.

    `scratch` is an empty folder, and `job.outcome` is in it.

    Raises:
        TargetError: the edition refused the job, or crashed; has the log's last words.
        OutputError: the engine or the log cannot be written.
    """
    options = scratch / "job.json"
    options.write_text(json.dumps(asdict(job)))
    environment = builder_environment(scratch, edition)
    supervise(CHILD, job=options, environment=environment, log=log)
    outcome = Outcome(**json.loads(Path(job.outcome).read_text()))
    if outcome.unwritable:
        raise OutputError(f"the engine cannot be written: {outcome.unwritable}")
    if outcome.declined:
        raise TargetError(f"{model}: {outcome.declined}")
    if outcome.failed:
        raise TargetError(_failure(outcome.failed, edition, log, model))
    return outcome


def _failure(reason: str, edition: Edition, log: Path, model: Path) -> str:
    made_by = authors(model)
    told = builder_errors(log, made_by) or (f"the log ends with\n{last_lines(log)}",)
    lines = [
        f"{model}: {edition.title} built no engine ({reason}):",
        *told,
        *grouped(remarks(model), made_by),
    ]
    return "\n  ".join(lines) + f"\nThe whole log is {log}."


@contextmanager
def scratch_folder(engine: Path, edition: Edition) -> Iterator[Path]:
    """Make a folder for what the builder needs while it runs, and remove it.

    Raises OutputError where the folder of the engine cannot be made.
    """
    try:
        engine.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder of the engine cannot be made: {error}") from error
    with tempfile.TemporaryDirectory(prefix=f"castline-{edition.name}-") as folder:
        yield Path(folder)


@contextmanager
def written(engine: Path) -> Iterator[Path]:
    """Give a name to write the engine under; it becomes `engine` only when all went well."""
    unfinished = engine.with_name(f"{engine.name}.partial")
    try:
        yield unfinished
        unfinished.replace(engine)
    finally:
        unfinished.unlink(missing_ok=True)
