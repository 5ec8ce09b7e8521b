"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

Given = TypeVar("Given", str, list[str])


def utf8_alone(given: Given) -> Given:
    """Refuse texts that are not UTF-8: no tokenizer takes them."""
    try:
        "".join(given).encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter("is not UTF-8 text") from error
    return given


Dtype = Literal["float32", "float16", "bfloat16", "checkpoint"]

Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="The checkpoint: a Hugging Face folder, a GGUF file, or a hub id such as "
        "HuggingFaceTB/SmolLM2-135M-Instruct.",
        show_default=False,
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="The folder to write. It appears only when everything in it is written and checked.",
        show_default=False,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace OUT if Castline wrote it before.")
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run Python code that the checkpoint brings along."),
]
EvaluationText = Annotated[
    str | None,
    typer.Option(
        "--evaluation-text",
        metavar="TEXT",
        help="What to compare the models on, in place of the text that Castline ships: a text "
        "file, a folder of them, or a dataset.",
    ),
]
PlanOutput = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="PLAN",
        help="The folder to write the plan into, or to go on in.",
        show_default=False,
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        metavar="NAME|FILE",
        help="How to quantize: a preset (castline recipes lists them) or a YAML file.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a field of the recipe, such as weights.group_size=64. May be repeated.",
    ),
]
CalibrationText = Annotated[
    str | None,
    typer.Option(
        "--calibration-text",
        metavar="TEXT",
        help="What to take ranges and scales from, in place of the text that Castline ships: a "
        "text file, a folder of them, or a dataset.",
    ),
]
Device = Annotated[
    Literal["cpu", "cuda"],
    typer.Option(help="Where the search runs the model's blocks."),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads for running models. Default: all cores."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout instead of tables.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress on stderr.")]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error and library warnings.")
]
