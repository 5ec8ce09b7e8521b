"""castline export: the float graph alone."""

# ruff: noqa: PLC0415 - the compiler imports torch, which takes seconds that --help does not have.

from __future__ import annotations

import json
from typing import Annotated

import typer

from castline.cli.failures import Failures
from castline.cli.options import (
    AsJson,
    Debug,
    Dtype,
    Output,
    Overwrite,
    Quiet,
    Source,
    TrustRemoteCode,
)
from castline.cli.shown_progress import shown_progress

NOTHING_WRITTEN = "interrupted: nothing was written."


def export(
    source: Source,
    *,
    output: Output,
    dtype: Annotated[
        Dtype, typer.Option(help="The dtype of weights and activations; checkpoint: as stored.")
    ] = "float32",
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a checkpoint as a float ONNX graph, without quantizing it.

    One layer of each kind is traced and stamped as often as the model has it, and the weights are
    copied one by one, so only the writing of the weights grows with the depth. OUT gets model.onnx,
    model.onnx.data, the tokenizer and the configurations.

    **Example:** castline export HuggingFaceTB/SmolLM2-135M-Instruct -o build/smollm2
    """
    with Failures(debug=debug, interrupted=NOTHING_WRITTEN):
        from castline.compiler.pipeline import export_model

        with shown_progress(quiet=quiet) as progress:
            outcome = export_model(
                source,
                output,
                dtype=dtype,
                overwrite=overwrite,
                trust_remote_code=trust_remote_code,
                progress=progress,
            )
        if as_json:
            typer.echo(json.dumps(outcome.to_json(), indent=2))
            return
        from castline.cli.tables import show_exported

        show_exported(outcome)
