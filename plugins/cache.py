"""Say where built plugin libraries are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

LIBRARY = "libcastline_plugins.so"


def plugin_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of libraries that `castline plugins build` made."""
    base = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "castline" / "plugins"


def built_folder(sources: str, configuration: str, cache: Path) -> Path:
    """Return where the library of these sources in this configuration, two hashes, is kept."""
    return cache / f"{sources[:16]}-{configuration[:16]}"


def built_libraries(sources: str, cache: Path) -> tuple[Path, ...]:
    """Return the libraries in the cache that were built from `sources`, the newest first."""
    found = cache.glob(f"{sources[:16]}-*/{LIBRARY}")
    return tuple(sorted(found, key=lambda file: (-file.stat().st_mtime_ns, str(file))))
