"""Compare a compiled folder with its original again, or any two models with each other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from castline.compiler.check.any_pair import (
    AnyPair,
    Sides,
    described,
    layer_figures,
    opened_sides,
    ordered,
    require_memory_of,
)
from castline.compiler.check.engine_reading import built_engine
from castline.compiler.check.evaluation_text import HeldOutText, held_out_text
from castline.compiler.check.language import LanguageModel
from castline.compiler.check.memory import available_memory
from castline.compiler.check.model_kind import NamedModel, named_model
from castline.compiler.check.polygraphy_commands import (
    SavedCommands,
    no_engine_command,
    require_graph,
    saved_commands,
)
from castline.compiler.check.provenance import opening_title, recorded_source, require_recorded
from castline.compiler.check.recorded_recipe import recorded_thresholds
from castline.compiler.package.engine_plugins import plugin_library
from castline.compiler.package.manifest import MANIFEST, read_manifest
from castline.compiler.report.outcome import CheckOutcome
from castline.compiler.report.record import read_report
from castline.compiler.runner import open_engine
from castline.compiler.targets.tensorrt.environment import runnable_here
from castline.progress import Progress, SilentProgress


def check_output(
    output: Path,
    *,
    against: str | None = None,
    evaluation_text: str | None = None,
    overrides: Sequence[str] = (),
    layers: bool = False,
    save_inputs: Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> CheckOutcome:
    """Compare a compiled folder with its original, or with the model `against`.

    The original is the checkpoint it was compiled from; CheckpointError if that is gone or has
    changed since. With `against`, both may be checkpoints, graphs or folders with one; where only
    one of them is a checkpoint, that is the original. `overrides` change thresholds of the recipe,
    `layers` compares the hidden state after each layer, too. With `save_inputs`, that folder gets
    what the commands of the outcome read. Raises the CastlineErrors.
    """
    started = time.perf_counter()
    progress = progress or SilentProgress()
    manifest = read_manifest(output) if against is None else {}
    source = against or recorded_source(output, manifest, read_report(output) or {})
    original, result, notes = ordered(named_model(source), named_model(output))
    manifest = manifest or _manifest_of(result)
    thresholds = recorded_thresholds(manifest, overrides)
    sides = _read(original, result, evaluation_text, threads, progress)
    if against is None and sides.checkpoint is not None:
        notes += require_recorded(sides.checkpoint, output, manifest, progress)
    if save_inputs is not None:
        require_graph(sides)
    require_memory_of(sides, available_memory())
    engine, left_out = _engine(sides)
    with opened_sides(sides, engine, progress) as pair:
        measured = pair.measure(thresholds, progress)
        figures = layer_figures(sides, pair) if layers else None
        saved = SavedCommands(())
        if save_inputs is not None:
            saved = _saved(sides, pair, save_inputs, manifest, layers=layers)
    return CheckOutcome(
        output=output,
        against=source,
        language=measured.language,
        encoding=measured.encoding,
        tensors=measured.tensors,
        verdicts=measured.verdicts,
        layers=figures,
        commands=saved.commands,
        seconds=time.perf_counter() - started,
        notes=(*notes, *measured.notes, *saved.notes),
        not_executed=left_out or (() if engine else _not_executed(manifest)),
    )


def _read(
    original: NamedModel,
    result: NamedModel,
    evaluation_text: str | None,
    threads: int | None,
    progress: Progress,
) -> Sides:
    with progress.stage(opening_title(original.source)):
        opened = described(original)
    with progress.stage("Reading the evaluation text"):
        text = held_out_text(opened, evaluation_text)
    return Sides(original, result, opened, text, threads)


def _engine(sides: Sides) -> tuple[LanguageModel | None, tuple[str, ...]]:
    """Load the engine of the result where it can run; return why not for those that cannot."""
    left_out = [
        f"The engine {named.engine.name} of {named.source} was not run: {reason}. Its graph "
        f"{named.graph} was compared, on ONNX Runtime."
        for named in (sides.original, sides.result)
        if named.engine is not None and (reason := _hindrance(named, sides))
    ]
    result = sides.result
    if result.engine is None or _hindrance(result, sides):
        return None, tuple(left_out)
    return open_engine(result.folder), tuple(left_out)


def _hindrance(named: NamedModel, sides: Sides) -> str | None:
    if named is sides.original:
        return "the engine to run is that of OUT"
    if not isinstance(sides.text, HeldOutText):
        return "engines of encoders are not run here"
    return runnable_here()


def _saved(
    sides: Sides, pair: AnyPair, folder: Path, manifest: Mapping[str, object], *, layers: bool
) -> SavedCommands:
    """Save what repeats the comparison, by the engine, too, where a command can run it."""
    has_library = sides.result.engine is not None and bool(manifest)
    library = plugin_library(sides.result.folder) if has_library else None
    built = built_engine(sides.result, manifest, library)
    if not isinstance(built, str):
        return saved_commands(sides, pair, folder, layers=layers, engine=built)
    saved = saved_commands(sides, pair, folder, layers=layers)
    assert sides.result.engine is not None, "it is what no command can run"
    note = no_engine_command(sides.result.engine, built)
    return replace(saved, notes=(*saved.notes, note))


def _manifest_of(named: NamedModel) -> Mapping[str, object]:
    """Return the manifest beside a model that was named by the user; {} without one."""
    folder = Path(named.source) if named.graph is None else named.folder
    return read_manifest(folder) if (folder / MANIFEST).is_file() else {}


def _not_executed(manifest: Mapping[str, object]) -> tuple[str, ...]:
    listed = manifest.get("not_executed")
    return tuple(map(str, listed)) if isinstance(listed, list) else ()
