"""Choose what of an output folder a package carries, and say where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from castline.compiler.package.manifest import (
    MANIFEST,
    facts_of,
    listed_files,
    read_manifest,
    require_unchanged,
    sha256_of,
)
from castline.compiler.targets.write import DATA, MODEL
from castline.errors import OutputError

_PLAN = "plan/"  # what the weights were quantized by: nothing reads it at run time


def packed_manifest(folder: Path) -> Mapping[str, object]:
    """Return the manifest of a folder that is to be packed, once every file is proved by it.

    Raises OutputError where a file is not as it was written, or the folder is a package itself.
    """
    manifest = read_manifest(folder)
    package = manifest.get("package")
    if isinstance(package, Mapping):
        raise OutputError(
            f"{folder}: is itself a package ({package.get('kind')}), and leaves out what another "
            "would need. Give the folder that `castline compile` wrote."
        )
    require_unchanged(folder)
    return manifest


def engine_of(manifest: Mapping[str, object]) -> str | None:
    """Return the name of a folder's engine; None where ONNX Runtime runs its model."""
    build = manifest.get("build")
    engine = build.get("engine") if isinstance(build, Mapping) else None
    return engine if isinstance(engine, str) else None


def run_time_files(
    folder: Path, manifest: Mapping[str, object]
) -> Mapping[str, Mapping[str, object]]:
    """Return what running takes of a folder: the size and the SHA-256 of each file, by name.

    Left out are the plan and, beside an engine, the ONNX model that it was built from.
    """
    left_out = () if engine_of(manifest) is None else (MODEL, DATA)
    return {
        name: recorded
        for name, recorded in sorted(listed_files(manifest, folder / MANIFEST).items())
        if name not in left_out and not name.startswith(_PLAN)
    }


def package_facts(
    folder: Path, manifest: Mapping[str, object], kind: str, **package: object
) -> dict[str, object]:
    """Return what the manifest of a package says: all that its origin says, and what it is.

    `of_manifest` is the SHA-256 of the manifest of the folder that it was made of.
    """
    origin = {"kind": kind, "of_manifest": sha256_of(folder / MANIFEST)}
    return {**facts_of(manifest), "package": {**origin, **package}}
