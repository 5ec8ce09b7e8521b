"""castline quantize: find the numbers of a quantization, and keep them in a plan."""

# ruff: noqa: PLC0415 - the compiler imports torch, which takes seconds that --help does not have.

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from castline.cli.failures import Failures
from castline.cli.options import (
    AsJson,
    CalibrationText,
    Debug,
    Device,
    Overrides,
    PlanOutput,
    Quiet,
    RecipeName,
    Source,
    TrustRemoteCode,
)
from castline.cli.shown_progress import shown_progress
from castline.compiler.report.numbers import duration, percentage, significant

if TYPE_CHECKING:
    from castline.compiler.report.quantize_outcome import QuantizeOutcome

FINISHED_STAYS = "interrupted: what was finished stays; the same command goes on from there."
SHOWN_LINEARS = 5


def quantize(
    source: Source,
    *,
    output: PlanOutput,
    recipe: RecipeName = "w8a8-smoothquant",
    overrides: Overrides = None,
    calibration_text: CalibrationText = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="How many samples of it are read. Default: 32.")
    ] = None,
    sequence_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a sample. Default: 512.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Chooses the samples. Default: 42.")
    ] = None,
    chat_template: Annotated[
        bool | None,
        typer.Option("--chat-template", help="Put samples into the model's chat template."),
    ] = None,
    device: Device = "cpu",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace PLAN if it is a plan of something else.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search a quantization on a calibration text; write what was decided as a plan.

    The model runs block by block, with the weights of one block in memory. What was decided for a
    block is written before the next begins: a run that was stopped goes on from there when the same
    command is given again, and ends in the same bytes. castline compile --plan PLAN uses it, for
    any target.

    **Example:** castline quantize HuggingFaceTB/SmolLM2-135M-Instruct --recipe w8a8-smoothquant-o3
    -o build/plan, then castline compile HuggingFaceTB/SmolLM2-135M-Instruct --plan build/plan
    -o build/smollm2
    """
    changes = [
        *(overrides or ()),
        *calibration_overrides(
            {
                "text": calibration_text,
                "samples": samples,
                "length": sequence_length,
                "seed": seed,
                "chat_template": chat_template,
            }
        ),
    ]
    with Failures(debug=debug, interrupted=FINISHED_STAYS):
        from castline.compiler.recipes.load import load_recipe

        loaded = load_recipe(recipe, changes)
        from castline.compiler.planning import quantize_model

        with shown_progress(quiet=quiet) as progress:
            outcome = quantize_model(
                source,
                output,
                recipe=loaded,
                device=device,
                overwrite=overwrite,
                trust_remote_code=trust_remote_code,
                progress=progress,
            )
        if as_json:
            typer.echo(json.dumps(outcome.to_json(), indent=2))
        else:
            _show(outcome)


def calibration_overrides(given: Mapping[str, object]) -> list[str]:
    """Return what changes a recipe's calibration section as the options say; JSON is YAML."""
    return [
        f"calibration.{name}={json.dumps(value)}"
        for name, value in given.items()
        if value is not None
    ]


def _summary(outcome: QuantizeOutcome) -> Iterator[str]:
    plan, facts = outcome.plan, outcome.plan.identity.calibration
    by = f" by {outcome.algorithm}" if outcome.algorithm else ""
    divided = f", divided in the graph at {outcome.divided}" if outcome.divided else ""
    yield (
        f"{len(outcome.quantized)} of {len(plan.linears)} linears in {len(plan.blocks)} blocks "
        f"quantized{by}; scales folded at {outcome.folded} of {len(plan.sites)} sites{divided}"
    )
    if outcome.reassembled:
        yield f"channels reassembled at {outcome.reassembled} sites"
    if outcome.corrected is not None:
        taken, learned = outcome.corrected
        yield f"corrections taken up in {taken} of {learned} windows of blocks"
    if outcome.clipped is not None:
        yield f"ranges narrowed by search: {percentage(outcome.clipped)}"
    yield (
        f"calibrated on {facts.samples} samples of {facts.length} tokens: {facts.source}, "
        f"SHA-256 {facts.sha256[:12]}"
    )
    unreached = sum(map(len, outcome.unreached.values()))
    if unreached:
        yield (
            f"{unreached} matrices of experts that the text never reached are rounded to nearest; "
            "a longer text (--samples) may reach them"
        )
    for reason, count in outcome.kept.items():
        yield f"{count} stay in float: {reason}"


def _show(outcome: QuantizeOutcome) -> None:
    from castline.cli.tables import out

    console = out()
    console.print(Text(f"{outcome.output}: {outcome.source}, {outcome.recipe}", style="bold"))
    for line in _summary(outcome):
        console.print(Text(line))
    worst = outcome.worst(SHOWN_LINEARS)
    if worst:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("outputs that lose most")
        for heading in ("signal to noise, dB", "peak before", "after"):
            table.add_column(heading, justify="right")
        for one in worst:
            table.add_row(
                one.name,
                f"{one.output_sqnr:.1f}",
                significant(one.peak_before),
                significant(one.peak_after),
            )
        console.print(table)
    for note in outcome.notes:
        console.print(Text(f"note: {note}"))
    console.print(f"planned in {duration(outcome.seconds)}")
