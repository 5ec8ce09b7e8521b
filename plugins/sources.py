"""Name the files that the native libraries are built from, and hash them."""

from __future__ import annotations

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent
_SUFFIXES = (".cpp", ".cu", ".cuh", ".h", ".txt")


def native_sources(root: Path = ROOT) -> tuple[Path, ...]:
    """Return every file below `root` that a native library is built from, sorted."""
    return tuple(sorted(file for file in root.rglob("*") if file.suffix in _SUFFIXES))


def source_hash(root: Path = ROOT) -> str:
    """Return the SHA-256 of the names and contents of `native_sources`."""
    digest = hashlib.sha256()
    for file in native_sources(root):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
