"""Load the plugins that an engine was built with: the library that travelled in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from castline.compiler.package.manifest import MANIFEST, read_manifest
from castline.errors import OutputError
from castline.plugins.library import TensorRT, register, verify


def load_engine_plugins(folder: Path, tensorrt: TensorRT) -> Path | None:
    """Register the plugins of a compiled `folder`, before its engine is deserialized.

    `tensorrt` is the module tensorrt or tensorrt_rtx. Returns the library; None where the engine
    needs none. Nothing but the library with the hash of the manifest is loaded.

    Raises:
        OutputError: there is no manifest, or the library is missing, or is not the one that the
            engine was built with.
        PluginError: TensorRT does not take it.
    """
    library = plugin_library(folder)
    if library is not None:
        register(library, tensorrt)
    return library


def plugin_library(folder: Path) -> Path | None:
    """Return the library that travelled with the engine of `folder`; None where it needs none.

    Raises OutputError where it is missing, or is not the one that the engine was built with.
    """
    plugins = _plugins(folder, read_manifest(folder))
    if plugins is None:
        return None
    library = folder / plugins["library"]
    verify(library, plugins["sha256"])
    return library


def _plugins(folder: Path, manifest: Mapping[str, object]) -> dict[str, str] | None:
    built = manifest.get("build")
    plugins = built.get("plugins") if isinstance(built, dict) else None
    if plugins is None:
        return None
    if isinstance(plugins, dict) and all(
        isinstance(plugins.get(key), str) for key in ("library", "sha256")
    ):
        return plugins
    raise OutputError(
        f"{folder / MANIFEST}: build.plugins: expected the library and its sha256; compile the "
        "model again"
    )
