"""Build an engine of TensorRT or TensorRT-RTX from a lowered ONNX file."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from castline.compiler.targets.options import LogitsOf
from castline.compiler.targets.tensorrt.authors import authors
from castline.compiler.targets.tensorrt.builder_process import (
    outcome_of,
    scratch_folder,
    written,
)
from castline.compiler.targets.tensorrt.edition import TENSORRT_RTX, Edition
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.environment import require_builder
from castline.compiler.targets.tensorrt.hand_over import hand_over
from castline.compiler.targets.tensorrt.job import Job
from castline.compiler.targets.tensorrt.reading import plugin_nodes
from castline.compiler.targets.tensorrt.refusals import grouped, refusals, remarks
from castline.compiler.targets.tensorrt.shape_flags import Shapes
from castline.compiler.targets.tensorrt.weights import (
    WeightJudgement,
    judge_weights,
    weight_bytes,
)
from castline.errors import TargetError
from castline.progress import Progress


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
    edition: Edition
    tensorrt_version: str
    compute_capabilities: tuple[str, ...]  # empty: the edition's default
    profiles: tuple[Mapping[str, Shapes], ...]
    layers: Mapping[str, int]
    plugin_layers: Mapping[str, int]
    weights: WeightJudgement
    stripped: bool
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
    edition: Edition = TENSORRT_RTX,
    profiles: Sequence[Mapping[str, Shapes]],
    options: EngineOptions | None = None,
    logits: LogitsOf = "all",
    plugins: Path | None = None,
    log: Path | None = None,
    progress: Progress,
) -> EngineFacts:
    """Build the saved ONNX `model` into a serialized engine.

    What the builder says goes to `log` (None: a file named after the engine, beside it).

    `profiles` has the shapes of every input, one mapping for each optimization profile, as
    `engine_profiles` makes them from `options`, of which the rest is read here. `plugins` is the
    library that computes nodes of Castline's ops; a model without such needs none.

    Raises:
        TargetError: the edition is missing, has no such option, is known to refuse the graph, or
            refused it, or crashed. Names nodes where they are known.
        OutputError: the engine or its log cannot be written.
    """
    options = options or EngineOptions()
    require_builder(edition, options)
    log = log or engine.with_name(f"{engine.name}.build.log")
    with scratch_folder(engine, edition) as scratch, written(engine) as unfinished:
        handed = hand_over(model, scratch, logits=logits)
        _refuse(handed, model, edition)
        job = _job(handed, unfinished, scratch, profiles, options, plugins)
        started = time.perf_counter()
        title = f"Building the {edition.title} engine"
        with progress.stage(title):  # it cannot tell how far it is
            outcome = outcome_of(job, scratch, edition, log, model)
        seconds = time.perf_counter() - started
    size = engine.stat().st_size
    weights = judge_weights(size, weight_bytes(model), log, stripped=options.strip_weights)
    return EngineFacts(
        path=engine,
        bytes=size,
        seconds=seconds,
        peak_memory_bytes=outcome.peak_memory,
        edition=edition,
        tensorrt_version=outcome.version,
        compute_capabilities=options.compute_capabilities,
        profiles=tuple(profiles),
        layers=outcome.layers,
        plugin_layers=outcome.plugin_layers,
        weights=weights,
        stripped=options.strip_weights,
        remarks=() if weights.kept else grouped(remarks(model), authors(model)),
        log=log,
    )


def refit_engine(
    stripped: Path,
    model: Path,
    engine: Path,
    *,
    edition: Edition,
    plugins: Path | None = None,
    logits: LogitsOf = "all",
    version_compatible: bool = False,
    log: Path | None = None,
    progress: Progress,
) -> str:
    """Write `engine`: a `stripped` one with the weights of the `model` it was built from.

    `version_compatible` is what it was built as. Returns the version of the TensorRT that did it.
    It needs a GPU that the engine is for.

    Raises:
        TargetError: the edition or a GPU is missing, or TensorRT does not take engine or weights.
        OutputError: the engine or its log cannot be written.
    """
    require_builder(edition, EngineOptions(strip_weights=True))
    log = log or engine.with_name(f"{engine.name}.build.log")
    with scratch_folder(engine, edition) as scratch, written(engine) as unfinished:
        handed = hand_over(model, scratch, logits=logits)
        built_as = EngineOptions(version_compatible=version_compatible)
        job = replace(
            _job(handed, unfinished, scratch, (), built_as, plugins),
            refit=str(stripped.absolute()),
        )
        with progress.stage(f"Putting weights into the {edition.title} engine"):
            return outcome_of(job, scratch, edition, log, model).version


def _refuse(handed: Path, model: Path, edition: Edition) -> None:
    refused = refusals(handed)
    if refused:
        reasons = "\n".join(f"  {line}" for line in grouped(refused, authors(model)))
        raise TargetError(f"{model}: {edition.title} would refuse this graph:\n{reasons}")


def _job(
    handed: Path,
    engine: Path,
    scratch: Path,
    profiles: Sequence[Mapping[str, Shapes]],
    options: EngineOptions,
    plugins: Path | None,
) -> Job:
    nodes = plugin_nodes(handed)
    assert plugins is not None or not nodes, "the caller found the library that the graph needs"
    cache = options.timing_cache
    return Job(
        model=str(handed.absolute()),
        engine=str(engine.absolute()),
        outcome=str(scratch / "outcome.json"),
        profiles=[
            {name: [list(shape) for shape in shapes] for name, shapes in profile.items()}
            for profile in profiles
        ],
        compute_capabilities=list(options.compute_capabilities),
        parent=os.getpid(),
        plugin_library="" if plugins is None or not nodes else str(plugins.absolute()),
        plugin_nodes=nodes,
        timing_cache="" if cache is None else str(cache.absolute()),
        version_compatible=options.version_compatible,
        hardware_compatibility=options.hardware_compatibility,
        strip_weights=options.strip_weights,
        workspace=options.workspace,
    )
