"""Build the engine of a compiled folder again: with other options, or for another TensorRT."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from castline.compiler.package.manifest import (
    difference,
    facts_of,
    read_manifest,
    write_manifest,
)
from castline.compiler.package.publish import publishing, require_outside
from castline.compiler.report.outcome import BuildOutcome
from castline.compiler.report.rebuilt_page import note_rebuilt
from castline.compiler.report.record import REPORT, read_report
from castline.compiler.targets.catalogue import target_named
from castline.compiler.targets.context import context_in
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.tensorrt.build import refit_engine
from castline.compiler.targets.tensorrt.edition import EDITIONS, edition_named
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.environment import require_builder
from castline.compiler.targets.tensorrt.reading import read_proto
from castline.compiler.targets.tensorrt.target import ENGINE
from castline.compiler.targets.write import MODEL
from castline.errors import OutputError, TargetError
from castline.progress import Progress, SilentProgress

_AGAIN = "Compile the model again, or copy the folder again."


@dataclass(frozen=True)
class _Compiled:
    """A compiled folder that has, or had, an engine."""

    folder: Path
    manifest: Mapping[str, Any]
    build: Mapping[str, Any]

    @property
    def engine_bytes(self) -> int | None:
        recorded = self.manifest["files"].get(ENGINE)
        return None if recorded is None else int(recorded["size"])


def rebuild(
    output: Path,
    result: Path | None = None,
    *,
    target: str | None = None,
    engine: EngineOptions | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BuildOutcome:
    """Build the engine of the compiled folder `output` again, from the model.onnx in it.

    `result` is a new folder (None: `output` is replaced, whole or not at all). `target` is
    "tensorrt" or "tensorrt-rtx" (None: as before). The graph stays as it is, and so do the figures
    of its gate. No checkpoint is read.

    Raises OutputError where the folder is not of these targets or its files were changed, and
    TargetError where TensorRT is missing or refuses.
    """
    progress = progress or SilentProgress()
    if result is not None:
        require_outside(result, output)
    compiled = _compiled(output)
    _require_capacity_kept(compiled, engine)
    chosen = target_named(
        target or str(compiled.manifest["target"]),
        TargetOptions(
            engine=engine or EngineOptions(),
            kv_cache=compiled.build.get("kv_cache", "growing"),
            logits=compiled.build.get("logits", "all"),
        ),
    )
    require_builder(edition_named(chosen.name), engine)
    _require_unchanged(compiled, progress, but=(ENGINE,))
    context = context_in({entry.key: entry.value for entry in _metadata(output)})
    if too_long := chosen.options.engine.sizes.refused(context):
        raise TargetError("\n".join(too_long))
    with _replacing(output, result, overwrite) as folder:
        _copy(output, folder, but=(ENGINE,), link=result is None)
        built = chosen.build(folder, context, progress)
        assert built.bytes is not None, "these targets say how large their engine is"
        outcome = BuildOutcome(
            output=result or output,
            target=chosen.name,
            version=str(built.facts["version"]),
            bytes=built.bytes,
            seconds=built.seconds or 0.0,
            peak_memory_bytes=built.peak_memory_bytes,
            notes=built.notes,
            not_executed=built.not_executed,
        )
        _write_accounts(compiled, folder, outcome, built.facts)
    return outcome


def _require_capacity_kept(compiled: _Compiled, engine: EngineOptions | None) -> None:
    longest = engine.sizes.max_seq_len if engine else None
    if compiled.build.get("kv_cache") == "fixed" and longest is not None:
        raise TargetError(
            f"--max-seq-len {longest}: the cache of {compiled.folder} has the capacity that it was "
            "compiled with. Leave it out, or compile again with --kv-capacity."
        )


def refit(
    output: Path,
    result: Path | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BuildOutcome:
    """Put the weights of model.onnx into the stripped engine of the compiled folder `output`.

    `result` is as in `rebuild`. It needs a GPU that the engine is for. Raises OutputError where
    the engine has its weights or a file was changed, and TargetError as `rebuild`.
    """
    progress = progress or SilentProgress()
    if result is not None:
        require_outside(result, output)
    compiled = _compiled(output)
    if compiled.build.get("weights_stripped") is not True:
        raise OutputError(
            f"{output}: its engine has its weights, so there is nothing to put in. An engine "
            "without is made by castline build OUT --strip-weights."
        )
    edition = edition_named(str(compiled.manifest["target"]))
    require_builder(edition, EngineOptions(strip_weights=True))
    _require_unchanged(compiled, progress)
    started = time.perf_counter()
    with _replacing(output, result, overwrite) as folder:
        _copy(output, folder, but=(ENGINE,), link=result is None)
        plugins = compiled.build.get("plugins")
        version = refit_engine(
            output / ENGINE,
            folder / MODEL,
            folder / ENGINE,
            edition=edition,
            plugins=None if plugins is None else folder / plugins["library"],
            logits=compiled.build.get("logits", "all"),
            version_compatible=compiled.build.get("version_compatible") is True,
            log=folder / f"{ENGINE}.build.log",
            progress=progress,
        )
        (folder / f"{ENGINE}.build.log").unlink(missing_ok=True)
        outcome = BuildOutcome(
            output=result or output,
            target=edition.name,
            version=version,
            bytes=(folder / ENGINE).stat().st_size,
            seconds=time.perf_counter() - started,
            not_executed=tuple(compiled.manifest.get("not_executed", ())),
        )
        _write_accounts(compiled, folder, outcome, {**compiled.build, "weights_stripped": False})
    return outcome


def _compiled(output: Path) -> _Compiled:
    manifest = read_manifest(output)
    names = [edition.name for edition in EDITIONS]
    if manifest.get("target") not in names:
        raise OutputError(
            f"{output}: was made for the target {manifest.get('target')}, which has no engine. "
            f"Compile the model with --target {' or '.join(reversed(names))}."
        )
    build, files = manifest.get("build"), manifest.get("files")
    if not isinstance(build, Mapping) or not isinstance(files, Mapping):
        raise OutputError(f"{output}: its manifest does not say how it was built. {_AGAIN}")
    return _Compiled(output, manifest, build)


def _require_unchanged(compiled: _Compiled, progress: Progress, but: tuple[str, ...] = ()) -> None:
    """Raise OutputError for a file that is not as it was written; all are copied or read."""
    with progress.stage("Comparing the files with the manifest"):
        found = [
            told
            for name, recorded in sorted(compiled.manifest["files"].items())
            if name not in but
            and (told := difference(name, compiled.folder / name, recorded)) is not None
        ]
    if found:
        listed = "\n  ".join(found)
        raise OutputError(f"{compiled.folder}: is not as it was written:\n  {listed}\n{_AGAIN}")


def _metadata(output: Path) -> Any:
    return read_proto(output / MODEL).metadata_props


def _replacing(output: Path, result: Path | None, overwrite: bool) -> Any:
    return publishing(result or output, overwrite=overwrite or result is None)


def _copy(output: Path, folder: Path, *, but: tuple[str, ...], link: bool) -> None:
    """Copy the files of `output`; where it is to be replaced, they may be the same on the disk."""
    copy: Callable[[str, str], object] = _linked if link else shutil.copy2
    shutil.copytree(
        output,
        folder,
        ignore=lambda path, _names: but if Path(path) == output else (),
        copy_function=copy,
        dirs_exist_ok=True,
    )


def _linked(source: str, copy: str) -> None:
    try:
        os.link(source, copy)
    except OSError:  # a file system without hard links
        shutil.copy2(source, copy)


def _write_accounts(
    compiled: _Compiled, folder: Path, outcome: BuildOutcome, build: Mapping[str, object]
) -> None:
    """Renew report.json and the manifest, and say in report.html that this is another engine."""
    changed: dict[str, object] = {"target": outcome.target, "build": dict(build)}
    changed["not_executed"] = list(outcome.not_executed)
    before, bits = compiled.engine_bytes, compiled.manifest.get("bits_per_weight")
    if before and isinstance(bits, int | float):
        changed["bits_per_weight"] = bits * outcome.bytes / before
    report = read_report(folder)
    if report is not None:
        renewed = {
            "bytes": outcome.bytes,
            "build_seconds": outcome.seconds,
            "build_peak_memory_bytes": outcome.peak_memory_bytes,
            **{key: changed[key] for key in ("target", "not_executed")},
        }
        (folder / REPORT).unlink()  # it may be the very file of the folder that is replaced
        text = json.dumps({**report, **renewed}, indent=2, ensure_ascii=False)
        (folder / REPORT).write_text(f"{text}\n", encoding="utf-8")
    note_rebuilt(folder, outcome)
    (folder / "manifest.json").unlink(missing_ok=True)
    write_manifest(folder, {**facts_of(compiled.manifest), **changed})
