"""Build a TensorRT-RTX engine from a lowered ONNX file; no GPU is needed."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from castline.compiler.targets.tensorrt_rtx.child import Job, Outcome
from castline.compiler.targets.tensorrt_rtx.environment import builder_environment, require_builder
from castline.compiler.targets.tensorrt_rtx.hand_over import hand_over
from castline.compiler.targets.tensorrt_rtx.profile import Profile, Shapes, model_shapes
from castline.compiler.targets.tensorrt_rtx.reading import plugin_nodes
from castline.compiler.targets.tensorrt_rtx.refusals import grouped, refusals, remarks
from castline.compiler.targets.tensorrt_rtx.supervise import (
    builder_errors,
    last_lines,
    supervise,
)
from castline.compiler.targets.tensorrt_rtx.weights import (
    WeightJudgement,
    judge_weights,
    weight_bytes,
)
from castline.errors import OutputError, TargetError
from castline.progress import Progress

# -P keeps the working folder, which may be a downloaded model, out of the child's module path.
CHILD = (sys.executable, "-P", "-m", "castline.compiler.targets.tensorrt_rtx.child")


@dataclass(frozen=True)
class EngineFacts:
    """What was built, and what it took.

    `layers` counts the layers of TensorRT's network by type before fusion, `plugin_layers` those
    that plugins compute, by op: nothing fuses with them, so the engine has as many; `profiles` has
    the shapes of every input, one mapping for each phase; `remarks` name nodes that built, but
    perhaps not as well as expected, unless `weights` proves the contrary.
    """

    path: Path
    bytes: int
    seconds: float
    peak_memory_bytes: int
    tensorrt_version: str
    compute_capabilities: tuple[str, ...]  # empty: TensorRT-RTX's default set
    profiles: tuple[Mapping[str, Shapes], ...]
    layers: Mapping[str, int]
    plugin_layers: Mapping[str, int]
    weights: WeightJudgement
    remarks: tuple[str, ...]
    log: Path

    @property
    def weights_kept_low_bit(self) -> bool | None:
        """Whether low-bit weights stayed low-bit; None where there are none or size cannot tell."""
        return self.weights.kept


def build_engine(
    model: Path,
    engine: Path,
    *,
    profile: Profile,
    compute_capabilities: tuple[str, ...] = (),
    plugins: Path | None = None,
    log: Path | None = None,
    progress: Progress,
) -> EngineFacts:
    """Build the saved ONNX `model` into a serialized engine.

    What the builder says goes to `log` (None: a file named after the engine, beside it).

    `compute_capabilities` are the GPUs it will run on, such as "8.9"; none means TensorRT-RTX's
    default, which is 8.0, 8.6, 8.9, 12.0 and later. `plugins` is the library that computes nodes of
    Castline's ops; a model without such needs none.

    Raises:
        TargetError: TensorRT-RTX is missing, is known to refuse the graph, or refused it, or
            crashed; or the profile contradicts the model. Names nodes where they are known.
        OutputError: the engine or its log cannot be written.
    """
    require_builder()
    profiles = model_shapes(model, profile)
    log = log or engine.with_name(f"{engine.name}.build.log")
    with _scratch(engine) as scratch, _written(engine) as unfinished:
        handed = hand_over(model, scratch)
        _refuse(handed, model)
        nodes = plugin_nodes(handed)
        assert plugins is not None or not nodes, "the caller found the library that the graph needs"
        job = scratch / "job.json"
        _write_job(job, handed, unfinished, profiles, compute_capabilities, plugins, nodes)
        started = time.perf_counter()
        with progress.stage("Building the TensorRT-RTX engine"):  # it cannot tell how far it is
            outcome = _run_child(job, builder_environment(scratch), log, model)
        seconds = time.perf_counter() - started
    size = engine.stat().st_size
    weights = judge_weights(size, weight_bytes(model), log)
    return EngineFacts(
        path=engine,
        bytes=size,
        seconds=seconds,
        peak_memory_bytes=outcome.peak_memory,
        tensorrt_version=outcome.version,
        compute_capabilities=compute_capabilities,
        profiles=profiles,
        layers=outcome.layers,
        plugin_layers=outcome.plugin_layers,
        weights=weights,
        remarks=() if weights.kept else grouped(remarks(model)),
        log=log,
    )


def _refuse(handed: Path, model: Path) -> None:
    refused = refusals(handed)
    if refused:
        reasons = "\n".join(f"  {line}" for line in grouped(refused))
        raise TargetError(f"{model}: TensorRT-RTX would refuse this graph:\n{reasons}")


def _write_job(
    job: Path,
    model: Path,
    engine: Path,
    profiles: tuple[dict[str, Shapes], ...],
    compute_capabilities: tuple[str, ...],
    plugins: Path | None,
    nodes: dict[str, str],
) -> None:
    fields = Job(
        model=str(model.absolute()),
        engine=str(engine.absolute()),
        outcome=str(_outcome_file(job)),
        profiles=[
            {name: [list(shape) for shape in shapes] for name, shapes in phase.items()}
            for phase in profiles
        ],
        compute_capabilities=list(compute_capabilities),
        parent=os.getpid(),
        plugin_library="" if plugins is None else str(plugins.absolute()),
        plugin_nodes=nodes,
    )
    job.write_text(json.dumps(asdict(fields)))


def _run_child(job: Path, environment: Mapping[str, str], log: Path, model: Path) -> Outcome:
    """Return what the child says of the engine it built."""
    supervise(CHILD, job=job, environment=environment, log=log)
    outcome = Outcome(**json.loads(_outcome_file(job).read_text()))
    if outcome.unwritable:
        raise OutputError(f"the engine cannot be written: {outcome.unwritable}")
    if outcome.declined:
        raise TargetError(f"{model}: {outcome.declined}")
    if outcome.failed:
        raise TargetError(_failure(outcome.failed, log, model))
    return outcome


def _outcome_file(job: Path) -> Path:
    return job.with_name("outcome.json")


def _failure(reason: str, log: Path, model: Path) -> str:
    told = builder_errors(log) or (f"the log ends with\n{last_lines(log)}",)
    lines = [f"{model}: TensorRT-RTX built no engine ({reason}):", *told, *grouped(remarks(model))]
    return "\n  ".join(lines) + f"\nThe whole log is {log}."


@contextmanager
def _scratch(engine: Path) -> Iterator[Path]:
    """Make a folder for what the builder needs while it runs, and remove it."""
    try:
        engine.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder of the engine cannot be made: {error}") from error
    with tempfile.TemporaryDirectory(prefix="castline-tensorrt-rtx-") as folder:
        yield Path(folder)


@contextmanager
def _written(engine: Path) -> Iterator[Path]:
    """Give a name to write the engine under; it becomes `engine` only when all went well."""
    unfinished = engine.with_name(f"{engine.name}.partial")
    try:
        yield unfinished
        unfinished.replace(engine)
    finally:
        unfinished.unlink(missing_ok=True)
