"""castline doctor: what this machine can do, and what to install for the rest."""

# ruff: noqa: PLC0415 - onnxruntime takes time that --help does not have.

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

import castline
from castline.cli.failures import Failures
from castline.cli.machine import (
    LIBRARIES,
    OFFLINE_FLAGS,
    cuda_compiler,
    free_space,
    gpus,
    hub_cache,
)
from castline.cli.options import AsJson, Debug
from castline.compiler.report.numbers import size


def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Show what this machine can do: libraries, GPU, tools, folders, offline flags, disk space.

    For every library that is absent it says what does not work and how to install it. It only
    looks: nothing is changed, nothing downloaded, and the exit code is 0.

    **Example:** castline doctor
    """
    with Failures(debug=debug):
        facts = _facts()
        if as_json:
            typer.echo(json.dumps({"libraries": _libraries(), **facts}, indent=2))
            return
        _show(facts)


def _libraries() -> list[dict[str, str | None]]:
    return [
        {
            "name": library.distributions[0],
            "version": library.version(),
            "without_it": library.without_it,
            "install": library.install,
        }
        for library in LIBRARIES
    ]


def _facts() -> dict[str, list[str]]:
    """The lines to show, by heading."""
    cache = hub_cache()
    folders = {"hub cache": cache, "working folder": Path.cwd()}
    folders["temporary files"] = Path(tempfile.gettempdir())
    return {
        "castline": [
            f"{castline.__version__}, Python {platform.python_version()}, {platform.platform()}, "
            f"{os.cpu_count()} cores"
        ],
        "execution providers": _providers(),
        "GPU": [
            f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory}, "
            f"driver {gpu.driver}"
            for gpu in gpus()
        ]
        or ["none seen: engines are built here, but cannot be run"],
        "nvcc": [cuda_compiler() or "absent"],
        "TensorRT plugins": _plugins(),
        "offline": [f"{name}={os.environ[name]}" for name in OFFLINE_FLAGS if name in os.environ]
        or ["no: hub ids may be downloaded"],
        "folders": [
            f"{name}: {folder}{'' if folder.exists() else ' (not there yet)'}, "
            f"{size(free_space(folder))} free"
            for name, folder in folders.items()
        ],
    }


def _plugins() -> list[str]:
    """The plugin library, or why there is none and what building one needs."""
    from castline.errors import CastlineError
    from castline.plugins.architectures import capability_from
    from castline.plugins.library import find_library
    from castline.plugins.toolchain import missing_tools

    try:
        library = find_library()
    except CastlineError as error:
        return [str(error), *(f"to build it: {sentence}" for sentence in missing_tools())]
    capabilities = ", ".join(map(capability_from, library.architectures))
    return [f"{library.path}, for compute capability {capabilities}"]


def _providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError as error:
        return [f"none: onnxruntime cannot be imported ({error})"]
    return [str(name) for name in onnxruntime.get_available_providers()]


def _show(facts: dict[str, list[str]]) -> None:
    from castline.cli.tables import out

    console = out()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for library in LIBRARIES:
        version = library.version()
        if version is not None:
            table.add_row(Text(library.distributions[0]), Text(version, style="green"))
        else:
            loss = f"without it: {library.without_it}; {library.install}"
            table.add_row(library.distributions[0], Text("absent", style="yellow"), Text(loss))
    for heading, lines in facts.items():
        console.print(Text(heading, style="bold"), *(Text(f"  {line}") for line in lines), sep="\n")
    console.print(Text("libraries", style="bold"))
    console.print(table)
