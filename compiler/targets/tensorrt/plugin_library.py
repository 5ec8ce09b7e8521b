"""Find the plugin library, or say how to come by it, and let it travel with an engine."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

from castline.errors import TargetError
from castline.plugins.library import Library, find_library

PluginUse: TypeAlias = Literal["auto", "never"]
"""auto: plugins compute what TensorRT has no operators for; never: that is refused."""

FOLDER = "plugins"
"""Where an output has the library."""
_NATIVE = (
    "Or compile with --plugins never: zero-points are then added as offsets, in TensorRT's own "
    "operators."
)


def required_library(what: str, *, native: bool = False) -> Library:
    """Return the plugin library, which computes `what`.

    `native` says that TensorRT's operators compute it, too. Raises TargetError where there is no
    library that fits, with every way out.
    """
    try:
        return find_library()
    except TargetError as error:
        ways = f"{error}.\n{_NATIVE}" if native else f"{error}."
        raise TargetError(
            f"The engine computes {what} by Castline's plugins, and {ways}"
        ) from error


def travelling(library: Library, folder: Path) -> Library:
    """Copy the library into an output folder; return the copy."""
    copy = folder / FOLDER / library.path.name
    copy.parent.mkdir()
    shutil.copyfile(library.path, copy)
    return replace(library, path=copy)


def library_facts(library: Library | None, layers: Mapping[str, int]) -> dict[str, object] | None:
    """Return what the manifest says of the plugins of an engine; `layers` are by op."""
    if library is None:
        return None
    return {
        "library": f"{FOLDER}/{library.path.name}",
        "sha256": library.sha256,
        "layout_version": library.layout_version,
        "architectures": list(library.architectures),
        "tensorrt_headers": library.tensorrt_headers,
        "layers": dict(layers),
    }


def layers_in_words(layers: Mapping[str, int]) -> str:
    """Return how many layers of which op there are, as "14 PackedLinearW4A16"."""
    counts = Counter(layers).most_common()
    return ", ".join(f"{count} {op}" for op, count in counts)
