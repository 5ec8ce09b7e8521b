"""castline check: compare an output folder with its original again, or any two models."""

# ruff: noqa: PLC0415 - the compiler imports torch, which takes seconds that --help does not have.

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from castline.cli.check_tables import show_bisected, show_layers
from castline.cli.failures import Failures
from castline.cli.options import AsJson, Debug, EvaluationText, Quiet, Threads
from castline.cli.shown_progress import shown_progress
from castline.cli.tasks import Limit, Tasks, TasksFolder, check_tasks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from castline.compiler.report.outcome import CheckOutcome


def check(
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The folder to check. With --against also an .onnx file or a checkpoint.",
            show_default=False,
        ),
    ],
    *,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The original: a checkpoint, the folder of another result or export, or an .onnx "
            "file. Default: the checkpoint that the folder was compiled from.",
        ),
    ] = None,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Compare the hidden state after each layer, too; name the first that diverges.",
        ),
    ] = False,
    bisect: Annotated[
        bool,
        typer.Option(
            "--bisect",
            help="Find the fewest layers to keep in float so that the thresholds are kept, by "
            "running mixes of both models.",
        ),
    ] = False,
    save_inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write what both models read into FOLDER, and print the commands of polygraphy "
            "run that repeat the comparison.",
        ),
    ] = None,
    thresholds: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="gate.FIELD=VALUE",
            help="Judge by another threshold than the recipe's, such as gate.kl_divergence=0.05. "
            "May be repeated.",
        ),
    ] = None,
    evaluation_text: EvaluationText = None,
    tasks: Tasks = None,
    tasks_folder: TasksFolder = None,
    limit: Limit = None,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check that a folder is whole, and how close it is to the original.

    First every file is compared with the manifest, then both models read held-out text and are
    judged by the thresholds of the recipe. Exit code 3: whole, but too far from the original.
    --bisect then finds the layers of a decoder to keep in float, and prints what to compile with;
    of an encoder, --layers says where it diverges.

    **Example:** castline check build/smollm2 --evaluation-text my-domain.txt --layers
    """
    _require_one_question(bisect, tasks, layers, save_inputs)
    of_tasks = {"--tasks-folder": tasks_folder, "--limit": limit}
    of_texts = {"--set": thresholds, "--evaluation-text": evaluation_text}
    _refuse_without_effect(of_tasks if tasks is None else of_texts, with_tasks=tasks is not None)
    with Failures(debug=debug):
        _require_unchanged(output, against)
        if save_inputs is not None:
            _require_own_folder(save_inputs, output, against)
        if tasks is not None:
            check_tasks(
                output,
                tasks,
                folder=tasks_folder,
                limit=limit,
                against=against,
                threads=threads,
                as_json=as_json,
                quiet=quiet,
            )
            return
        if bisect:
            from castline.compiler.bisection import bisect_output

            with shown_progress(quiet=quiet) as progress:
                found = bisect_output(
                    output,
                    against=against,
                    evaluation_text=evaluation_text,
                    overrides=thresholds or (),
                    threads=threads,
                    progress=progress,
                )
            if as_json:
                typer.echo(json.dumps(found.to_json(), indent=2))
            else:
                show_bisected(found)
            return
        from castline.compiler.recheck import check_output

        with shown_progress(quiet=quiet) as progress:
            outcome = check_output(
                output,
                against=against,
                evaluation_text=evaluation_text,
                overrides=thresholds or (),
                layers=layers,
                save_inputs=save_inputs,
                threads=threads,
                progress=progress,
            )
        if as_json:
            typer.echo(json.dumps(outcome.to_json(), indent=2))
        else:
            from castline.cli.tables import show_checked

            show_checked(outcome)
            show_layers(outcome)
        _require_passed(outcome)


def _require_one_question(
    bisect: bool, tasks: str | None, layers: bool, save_inputs: Path | None
) -> None:
    """Refuse options that would have no effect beside each other."""
    if bisect and (tasks is not None or layers or save_inputs is not None):
        raise typer.BadParameter(
            "--bisect answers a question of its own: give --tasks, --layers or --save-inputs in "
            "another run."
        )
    if tasks is not None and (layers or save_inputs is not None):
        raise typer.BadParameter(
            "--layers and --save-inputs have no effect with --tasks: give them in another run."
        )


def _refuse_without_effect(options: Mapping[str, object], *, with_tasks: bool) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        why = "with --tasks, which asks its own questions" if with_tasks else "without --tasks"
        raise typer.BadParameter(f"{' and '.join(given)} would have no effect {why}.")


def _require_own_folder(saved: Path, output: Path, against: str | None) -> None:
    """Raise OutputError, before any model runs, for inputs that have no folder of their own."""
    from castline.compiler.package.publish import require_outside
    from castline.errors import OutputError

    if saved.exists() and not saved.is_dir():
        raise OutputError(f"{saved}: is a file; give --save-inputs a folder.")
    for folder in (output, *([] if against is None else [Path(against)])):
        if folder.is_dir():
            require_outside(saved / "inputs.json", folder)


def _require_unchanged(output: Path, against: str | None) -> None:
    """Raise OutputError for a folder of ours that is not as it was written.

    With `against`, both may be models of other origin, which have no manifest to be held to.
    """
    from castline.compiler.package.manifest import MANIFEST, require_unchanged

    if against is None or (output / MANIFEST).is_file():
        require_unchanged(output)
    if against is not None and (Path(against) / MANIFEST).is_file():
        require_unchanged(Path(against))


def _require_passed(outcome: CheckOutcome) -> None:
    from castline.errors import GateFailedError

    failed = [verdict.name for verdict in outcome.verdicts if not verdict.passed]
    if not failed:
        return
    further = "compile it with more bits or smaller groups"
    if outcome.language is not None:
        further = "--bisect finds the layers to keep in float"
    elif outcome.encoding is not None and outcome.layers is None:
        further = "--layers says where the encoder diverges"
    raise GateFailedError(
        f"{outcome.output}: too far from the original: {', '.join(failed)}. To go on: {further}."
    )
