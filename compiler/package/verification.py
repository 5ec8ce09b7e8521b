"""Hold a folder, an archive or a Triton repository to its manifest, and say what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from castline.compiler.package.archive import is_archive, verify_archive
from castline.compiler.package.manifest import (
    MANIFEST,
    difference,
    listed_files,
    read_manifest,
    verify,
)
from castline.errors import OutputError


@dataclass(frozen=True)
class Verification:
    """What was verified, and how it differs from its manifest, a sentence each."""

    path: Path
    manifest: Mapping[str, object]
    differences: tuple[str, ...]

    @property
    def files(self) -> int:
        """How many files the manifest lists."""
        return len(listed_files(self.manifest, self.path))

    @property
    def bytes(self) -> int:
        """The size of them all, as the manifest has it."""
        sizes = (one.get("size") for one in listed_files(self.manifest, self.path).values())
        return sum(size for size in sizes if isinstance(size, int))

    def to_json(self) -> dict[str, object]:
        """Return what --json prints: the manifest but its list of files, and the differences."""
        facts = {key: value for key, value in self.manifest.items() if key != "files"}
        return {
            "path": str(self.path),
            "whole": not self.differences,
            "differences": list(self.differences),
            "files": self.files,
            "bytes": self.bytes,
            "manifest": facts,
        }


def verified(path: Path) -> tuple[Verification, ...]:
    """Verify an output folder, a .tar package, or each version in a Triton model repository.

    Every file is read. Raises OutputError when there is no manifest to compare with.
    """
    if path.is_file() or is_archive(path):
        return (Verification(path, *verify_archive(path)),)
    if (path / MANIFEST).exists() or not path.is_dir():
        return (_verified_folder(path),)
    versions = sorted({*path.glob(f"[1-9]*/{MANIFEST}"), *path.glob(f"*/[1-9]*/{MANIFEST}")})
    if not versions:
        read_manifest(path)  # says that there is none
    return tuple(_verified_folder(manifest.parent) for manifest in versions)


def _verified_folder(folder: Path) -> Verification:
    manifest = read_manifest(folder)
    return Verification(folder, manifest, (*verify(folder), *_shared(folder, manifest)))


def _shared(folder: Path, manifest: Mapping[str, object]) -> list[str]:
    """Return how the files differ that all versions of a Triton model have in common."""
    package = manifest.get("package")
    shared = package.get("shared", {}) if isinstance(package, Mapping) else {}
    if not isinstance(shared, Mapping):
        raise OutputError(f"{folder / MANIFEST}: package.shared: expected a mapping of names.")
    found = (
        difference(name, folder.parent / name, recorded)
        for name, recorded in sorted(shared.items())
        if isinstance(recorded, Mapping)
    )
    return [f"../{one}" for one in found if one is not None]
