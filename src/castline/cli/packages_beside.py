"""Pack what a compilation published, beside it: --package of castline compile."""

# ruff: noqa: PLC0415 - reading graphs takes time that --help does not have.

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from castline.cli.failures import Failures
from castline.cli.package import WHAT, Package
from castline.errors import CastlineError, OutputError

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


def packed_beside(
    output: Path, forms: Sequence[Package], *, overwrite: bool, debug: bool = False
) -> tuple[Path, ...]:
    """Pack a published output in each of the forms; return where.

    What goes wrong ends the command as `Failures` does, with words that the output is complete, and
    how to make the packages that are missing.
    """
    made: list[Path] = []
    for place, form in enumerate(forms):
        stays = _what_stays(output, forms[place:], overwrite=overwrite)
        with Failures(debug=debug, interrupted=f"interrupted: {stays}"):
            try:
                made.append(_packed(output, form, overwrite=overwrite))
            except CastlineError as error:
                error.args = (f"{error}\n{stays}",)
                raise
    return tuple(made)


def _packed(output: Path, form: Package, *, overwrite: bool) -> Path:
    place = beside(output, form)
    if form is Package.TAR:
        from castline.compiler.package.archive import write_archive

        return write_archive(output, place, overwrite=overwrite)
    from castline.compiler.package.triton_repository import write_repository

    return write_repository(output, place, overwrite=overwrite).folder


def _what_stays(output: Path, forms: Sequence[Package], *, overwrite: bool) -> str:
    """Return what there is, and how to get the packages of `forms`, which are not made."""
    places = [str(beside(output, form)) for form in forms]
    again = " --overwrite" if overwrite else ""
    commands = "".join(
        f"\n  {shlex.join(['castline', 'package', str(output), '-p', form, '-o', place])}{again}"
        for form, place in zip(forms, places, strict=True)
    )
    return f"{output} is complete and stays; not made: {', '.join(places)}. To pack it:{commands}"
