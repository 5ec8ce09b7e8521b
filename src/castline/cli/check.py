"""castline check: compare an output folder with its original again."""

# ruff: noqa: PLC0415 - the compiler imports torch, which takes seconds that --help does not have.

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from castline.cli.failures import Failures
from castline.cli.options import AsJson, Debug, EvaluationText, Quiet, Threads
from castline.cli.shown_progress import shown_progress


def check(
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to check.", show_default=False)
    ],
    *,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The original. Default: the checkpoint that the folder was compiled from.",
        ),
    ] = None,
    evaluation_text: EvaluationText = None,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check that a folder is whole, and how close it is to the original.

    First every file is compared with the manifest, then both models read held-out text and are
    judged by the thresholds of the recipe. Exit code 3: whole, but too far from the original.

    **Example:** castline check build/smollm2 --evaluation-text my-domain.txt
    """
    with Failures(debug=debug):
        from castline.compiler.package.manifest import require_unchanged

        require_unchanged(output)
        from castline.compiler.recheck import check_output
        from castline.errors import GateFailedError

        with shown_progress(quiet=quiet) as progress:
            outcome = check_output(
                output,
                against=against,
                evaluation_text=evaluation_text,
                threads=threads,
                progress=progress,
            )
        if as_json:
            typer.echo(json.dumps(outcome.to_json(), indent=2))
        else:
            from castline.cli.tables import show_checked

            show_checked(outcome)
        failed = [verdict.name for verdict in outcome.verdicts if not verdict.passed]
        if failed:
            raise GateFailedError(f"{output}: too far from the original: {', '.join(failed)}.")
