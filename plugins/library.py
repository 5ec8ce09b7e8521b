"""Find the plugin library, check that it is what it should be, and hand it to TensorRT."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from castline.errors import OutputError, PluginError
from castline.plugins.cache import LIBRARY, built_libraries, plugin_cache
from castline.plugins.packing import LAYOUT_VERSION
from castline.plugins.sources import ROOT, source_hash

VARIABLE = "CASTLINE_PLUGINS"
"""An environment variable: the library to use, in place of the package's own or the cache's."""

SHIPPED = ROOT / "lib" / LIBRARY
_BUILD = "run castline plugins build"


@dataclass(frozen=True)
class Library:
    """A plugin library and what it says of itself."""

    path: Path
    sha256: str
    layout_version: int
    architectures: tuple[str, ...]
    """Of nvcc: "89", "90a"."""
    ops: tuple[str, ...]
    source_hash: str
    tensorrt_headers: str
    """The version of the TensorRT headers that it was compiled with."""
    castline: str
    """The version of Castline that it was built by."""


class TensorRT(Protocol):
    """The module tensorrt, or tensorrt_rtx."""

    __version__: str

    def get_plugin_registry(self) -> Any: ...


def find_library(
    environment: Mapping[str, str] = os.environ, *, shipped: Path = SHIPPED
) -> Library:
    """Return the library: of CASTLINE_PLUGINS, else the package's own, else of the cache.

    Raises:
        PluginError: there is none, or it cannot be loaded or was built from other sources; the
            message says how to build it.
    """
    sources = source_hash()
    if environment.get(VARIABLE):
        named = Path(environment[VARIABLE])
        if not named.is_file():
            raise PluginError(
                f"{VARIABLE} names {named}, which is no file: set it to a {LIBRARY}, or unset it"
            )
        return _of_these_sources(named, sources, f"{VARIABLE} names")
    if shipped.is_file():
        return _of_these_sources(shipped, sources, "the package has")
    built = built_libraries(sources, plugin_cache(environment))
    if built:
        return _of_these_sources(built[0], sources, "the cache has")
    raise PluginError(
        f"there is no plugin library for this Castline: {_BUILD} (it needs a CUDA compiler, but no "
        f"GPU), or set {VARIABLE} to a {LIBRARY}"
    )


def read_library(path: Path) -> Library:
    """Return what the library at `path` says of itself; it is loaded into this process.

    Raises:
        PluginError: it is missing, cannot be loaded, or is no plugin library of Castline.
    """
    try:
        content = path.read_bytes()
        library = ctypes.CDLL(str(path.absolute()))
    except OSError as error:
        raise PluginError(
            f"the plugin library {path} cannot be loaded ({error}): {_BUILD}, and unset {VARIABLE} "
            "if it names this one"
        ) from error
    kernels = _document(library, "castline_build_info", path)
    plugins = _document(library, "castline_plugins_info", path)
    return Library(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        layout_version=kernels["layout_version"],
        architectures=tuple(kernels["architectures"].split()),
        ops=tuple(plugins["ops"]),
        source_hash=plugins["source_hash"],
        tensorrt_headers=plugins["tensorrt_headers"],
        castline=plugins["castline"],
    )


def verify(path: Path, sha256: str) -> None:
    """Make sure that the library that travelled with an engine is the one it was built with.

    Raises:
        OutputError: it is missing, or has another SHA-256.
    """
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise OutputError(
            f"the plugin library of the engine cannot be read ({error}): copy the whole folder, or "
            "compile the model again"
        ) from error
    if found != sha256:
        raise OutputError(
            f"{path} has the SHA-256 {found}, but the engine was built with {sha256}: it is "
            "another library or was damaged, and is not loaded; copy the folder again"
        )


def register(path: Path, tensorrt: TensorRT) -> None:
    """Load the library into the plugin registry of `tensorrt`; a second time changes nothing.

    TensorRT tells plugins apart by their names, so a process has the plugins of one library: the
    first. Engines that travelled with different libraries need a process each.

    Raises:
        PluginError: the library cannot be loaded, or TensorRT refused it.
    """
    library = read_library(path)
    registry = tensorrt.get_plugin_registry()
    if set(library.ops) <= _registered(registry):
        return
    handle = registry.load_library(str(path.absolute()))
    missing = sorted(set(library.ops) - _registered(registry))
    if handle is None or missing:
        raise PluginError(
            f"TensorRT {tensorrt.__version__} did not take the plugins of {path}, which was "
            f"compiled with the headers of TensorRT {library.tensorrt_headers} (not registered: "
            f"{', '.join(missing) or 'none'}); its log has the reason. {_BUILD} --force, with "
            "TENSORRT_ROOT set to this TensorRT's SDK, builds one for it"
        )


def _registered(registry: Any) -> set[str]:
    return {creator.name for creator in registry.all_creators}


def _document(library: ctypes.CDLL, function: str, path: Path) -> dict[str, Any]:
    try:
        told = library[function]
    except AttributeError as error:
        raise PluginError(
            f"{path} is no plugin library of Castline (it has no {function}): {_BUILD}"
        ) from error
    told.restype = ctypes.c_char_p
    document: dict[str, Any] = json.loads(told())
    return document


def _of_these_sources(path: Path, sources: str, where: str) -> Library:
    library = read_library(path)
    if library.source_hash == sources and library.layout_version == LAYOUT_VERSION:
        return library
    raise PluginError(
        f"{where} {path}, which was built from other sources (by Castline {library.castline}, for "
        f"the packed layout {library.layout_version}; this Castline has {LAYOUT_VERSION}): {_BUILD}"
        + (f", and unset {VARIABLE}" if where.startswith(VARIABLE) else "")
    )
