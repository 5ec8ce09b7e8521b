"""Pack what a compilation published, beside it: --package of castline compile."""

# ruff: noqa: PLC0415 - reading graphs takes time that --help does not have.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from castline.cli.package import WHAT, Package
from castline.errors import OutputError

Packages = Annotated[
    list[Package] | None,
    typer.Option(
        "--package",
        help=f"Pack the result, too, into OUT.triton or OUT.tar. {WHAT} May be repeated.",
        show_default=False,
    ),
]


def beside(output: Path, form: Package) -> Path:
    """Return where a package of an output goes."""
    return output.with_name(f"{output.name}.{form}")


def require_packable(
    output: Path, target: str, forms: Sequence[Package], *, overwrite: bool
) -> None:
    """Raise OutputError, before anything is compiled, for packages that could not be made then."""
    if Package.TRITON in forms:
        from castline.compiler.package.triton_repository import require_served, required_name

        require_served(output, target)
        required_name(output.absolute().name)
    for place in (beside(output, form) for form in forms):
        if place.exists() and not overwrite:
            raise OutputError(f"{place}: exists already. Remove it, or --overwrite it.")


def packed_beside(output: Path, forms: Sequence[Package], *, overwrite: bool) -> tuple[Path, ...]:
    """Pack a published output in each of the forms; return where. Raises OutputError."""
    made = []
    for form in forms:
        place = beside(output, form)
        if form is Package.TAR:
            from castline.compiler.package.archive import write_archive

            made.append(write_archive(output, place, overwrite=overwrite))
        else:
            from castline.compiler.package.triton_repository import write_repository

            made.append(write_repository(output, place, overwrite=overwrite).folder)
    return tuple(made)
