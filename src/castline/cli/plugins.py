"""castline plugins: build the library of TensorRT plugins, and show what there is."""

# ruff: noqa: PLC0415 - numpy takes time that --help does not have.

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from castline.cli.failures import Failures
from castline.cli.machine import gpus
from castline.cli.options import AsJson, Debug, Quiet

if TYPE_CHECKING:
    from castline.plugins.library import Library

plugins = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Build the library of TensorRT plugins, which engines with zero-points, per-token INT8 "
    "or 4-bit products need, and show what there is.",
)


@plugins.command("build")
def build(
    architectures: Annotated[
        str | None,
        typer.Option(
            metavar="8.9,9.0",
            help="The compute capabilities to build for. Default: those of this machine's GPUs, "
            "or where it has none 8.0, 8.6, 8.9, 9.0, 10.0 and 12.0.",
            show_default=False,
        ),
    ] = None,
    *,
    cutlass: Annotated[
        bool,
        typer.Option(
            "--cutlass/--no-cutlass",
            help="Compile CUTLASS's products for prompts of more than 256 tokens, which takes "
            "minutes.",
        ),
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Compile again what is there.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compile the plugin library, and keep it in the cache, where compile and generate find it.

    It needs a CUDA compiler, but no GPU; headers of TensorRT and CUTLASS are fetched. A build
    that was interrupted goes on where it was.

    **Example:** castline plugins build --architectures 8.9
    """
    with Failures(debug=debug, interrupted="interrupted; the next build goes on from here."):
        from castline.cli.shown_progress import shown_progress
        from castline.plugins.architectures import EVERY, architectures_from
        from castline.plugins.building import build as build_library

        wanted = (
            architectures.split(",")
            if architectures
            else [gpu.compute_capability for gpu in gpus()]
        )
        with shown_progress(quiet=quiet) as progress:
            library = build_library(
                architectures_from(wanted) or EVERY, cutlass=cutlass, force=force, progress=progress
            )
        _show(library, as_json=as_json)


@plugins.command("show")
def show(*, as_json: AsJson = False, debug: Debug = False) -> None:
    """Show the plugin library that engines are built with: its file, GPUs, ops and versions.

    **Example:** castline plugins show
    """
    with Failures(debug=debug):
        from castline.plugins.library import find_library

        _show(find_library(), as_json=as_json)


def _show(library: Library, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**asdict(library), "path": str(library.path)}, indent=2))
        return
    from castline.cli.tables import out
    from castline.plugins.architectures import capability_from

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")  # a path or hash that is cut is of no use
    table.add_row("library", str(library.path))
    table.add_row("SHA-256", library.sha256)
    table.add_row("GPUs", ", ".join(map(capability_from, library.architectures)) + " and later")
    table.add_row("ops", ", ".join(library.ops))
    table.add_row("packed layout", str(library.layout_version))
    table.add_row("TensorRT headers", library.tensorrt_headers)
    table.add_row("built by", f"castline {library.castline}")
    out().print(table)
