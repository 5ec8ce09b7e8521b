"""castline verify: hold a folder or a package to its manifest, and say what it is."""

# ruff: noqa: PLC0415 - --help need not import what reads manifests.

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from castline.cli.failures import Failures
from castline.cli.options import AsJson, Debug
from castline.compiler.report.numbers import significant, size

if TYPE_CHECKING:
    from castline.compiler.package.verification import Verification

_SHOWN = 12  # digits of a hash, as git shows them


def verify(
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="A folder that Castline wrote, a .tar package, or a Triton model repository.",
            show_default=False,
        ),
    ],
    *,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare every file with the manifest: edited, missing and additional ones are named.

    Then it says what the folder is: of which checkpoint, by which recipe, for which target and
    GPUs, and how near to the original it was. No model is run; castline check does that. The two
    reports hold times, and are in no manifest. Exit code 1: a file differs. A package is verified
    without unpacking it.

    **Example:** castline verify build/smollm2
    """
    with Failures(debug=debug):
        from castline.compiler.package.verification import verified
        from castline.errors import OutputError

        found = verified(output)
        if as_json:
            documents = [one.to_json() for one in found]
            typer.echo(json.dumps(documents[0] if len(found) == 1 else documents, indent=2))
        else:
            for one in found:
                for line in _lines(one):
                    typer.echo(line)
        if differing := [one for one in found if one.differences]:
            told = (f"{one.path}:\n  " + "\n  ".join(one.differences) for one in differing)
            raise OutputError(
                "not as it was written: " + "\n".join(told) + "\nCopy it again, or make it again."
            )


def _lines(found: Verification) -> Iterator[str]:
    state = "differs from its manifest" if found.differences else "as it was written"
    yield f"{found.path}: {state}; {found.files} files, {size(found.bytes)}"
    for name, text in _facts(found.manifest):
        yield f"  {name:<12} {text}"


def _facts(manifest: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    revision, digest = manifest.get("checkpoint_revision"), manifest.get("checkpoint_sha256")
    source = str(manifest.get("source", "unknown"))
    source += f", revision {revision}" if revision else ""
    yield "of", source + (f", SHA-256 {_short(digest)}" if digest else "")
    recipe = manifest.get("recipe")
    if isinstance(recipe, Mapping):
        yield "recipe", f"{recipe.get('name')}, {manifest.get('dtype')}"
    calibration = manifest.get("calibration")
    if isinstance(calibration, Mapping):
        text = f"{calibration.get('source')}, SHA-256 {_short(calibration.get('sha256'))}"
        yield "calibration", text
    yield "target", _target(manifest)
    build = manifest.get("build")
    plugins = build.get("plugins") if isinstance(build, Mapping) else None
    if isinstance(plugins, Mapping):
        yield "plugins", f"{plugins.get('library')}, SHA-256 {_short(plugins.get('sha256'))}"
    yield from _gate(manifest)
    package = manifest.get("package")
    if isinstance(package, Mapping):
        yield (
            "package",
            " ".join(str(package[k]) for k in ("kind", "name", "version") if k in package),
        )
    yield "by", f"Castline {manifest.get('castline_version')}"


def _target(manifest: Mapping[str, object]) -> str:
    from castline.compiler.package.engine_identity import gpus_in_words

    build, target = manifest.get("build"), str(manifest.get("target"))
    if not isinstance(build, Mapping) or "engine" not in build:
        return target
    chosen = build.get("compute_capabilities")
    gpus = gpus_in_words(
        target,
        [str(one) for one in chosen] if isinstance(chosen, list) else (),
        str(build.get("hardware_compatibility") or "none"),
    )
    return f"{target} {build.get('version')}, {build['engine']} for compute capability {gpus}"


def _gate(manifest: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    figures = manifest.get("figures")
    verdicts = figures.get("verdicts") if isinstance(figures, Mapping) else None
    if isinstance(verdicts, list) and verdicts:
        told = (
            f"{v['name']} {significant(v['value'])}" for v in verdicts if v["value"] is not None
        )
        yield "gate", "passed: " + ", ".join(told)
    elif isinstance(figures, Mapping):
        yield "gate", "not judged"


def _short(digest: object) -> str:
    return str(digest)[:_SHOWN]
