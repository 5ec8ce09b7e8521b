"""castline package: put a compiled folder into the form that a server or an edge box takes."""

# ruff: noqa: PLC0415 - reading graphs takes time that --help does not have.

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from castline.cli.failures import Failures
from castline.cli.options import AsJson, Debug


class Package(StrEnum):
    """The forms that a folder can be packed in."""

    TRITON = "triton"
    TAR = "tar"


WHAT = (
    "triton: a model repository for Triton's onnxruntime and tensorrt backends. tar: one file with "
    "what an edge box needs, .tar or .tar.gz."
)


def package(
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="A folder that castline compile wrote.", show_default=False
        ),
    ],
    *,
    form: Annotated[Package, typer.Option("--package", "-p", help=WHAT, show_default=False)],
    destination: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DEST",
            help="The repository to put the model into, or the file to write.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Of triton: the model's name. Default: that of OUT.", metavar="NAME"),
    ] = None,
    version: Annotated[
        int, typer.Option(min=1, help="Of triton: the version, a folder beside the others.")
    ] = 1,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of triton: the most rows of a request. Default: 1 for decoders; for encoders "
            "what the engine takes, or 32.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file, or the version, that is there.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Pack a compiled folder for where it will run. Every file is verified first.

    What is written appears whole or not at all, and has a manifest that castline verify reads. The
    same folder gives the same bytes.

    **Example:** castline package build/smollm2 --package triton -o models --version 2
    """
    if form is Package.TAR:
        _refuse_of_triton({"--name": name, "--max-batch": max_batch}, version)
    with Failures(debug=debug):
        if form is Package.TAR:
            from castline.compiler.package.archive import write_archive

            written = write_archive(output, destination, overwrite=overwrite)
            lines = [f"{written}: {written.stat().st_size:,} bytes"]
        else:
            from castline.compiler.package.triton_repository import write_repository

            placed = write_repository(
                output,
                destination,
                name=name,
                version=version,
                max_batch_size=max_batch,
                overwrite=overwrite,
            )
            written = placed.folder
            rows = placed.model.max_batch_size
            lines = [
                f"{written}: {placed.model.backend} backend, at most {rows} rows in a request",
                f"serve it as {written / 'README.md'} says",
            ]
        if as_json:
            typer.echo(json.dumps({"output": str(written), "package": form}, indent=2))
            return
        for line in lines:
            typer.echo(line)


def _refuse_of_triton(options: dict[str, object], version: int) -> None:
    given = [name for name, value in options.items() if value is not None]
    given += ["--version"] if version != 1 else []
    if given:
        raise typer.BadParameter(f"{' and '.join(given)}: a tar file has none. Leave it out.")
