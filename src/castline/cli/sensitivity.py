"""castline sensitivity: which layers quantization harms most, and which to keep in float."""

# ruff: noqa: PLC0415 - the compiler imports torch, which takes seconds that --help does not have.

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    Quiet,
    RecipeName,
    Source,
    TrustRemoteCode,
)
from castline.cli.shown_progress import shown_progress
from castline.compiler.report.numbers import duration, significant, size
from castline.errors import OutputError

if TYPE_CHECKING:
    from castline.compiler.report.ranking_outcome import RankingOutcome


def sensitivity(
    source: Source,
    *,
    recipe: RecipeName = "w8a8-smoothquant",
    by: Annotated[
        Literal["layer", "linear"],
        typer.Option(
            help="What is ranked: whole layers, or the linears of a layer that read one value, "
            "such as q, k and v."
        ),
    ] = "layer",
    budget: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="RATIO",
            help="Keep layers in float until the perplexity is at most RATIO times the original's, "
            "such as 1.02.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="RECIPE.yaml",
            help="Write the recipe that keeps the budget to this file.",
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN",
            help="The folder of the recipe's plan, as castline quantize writes it; what is not "
            "there is made. Default: a plan is made, and thrown away.",
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=1,
            help="How many of the calibration samples are read for each layer; so grows the time.",
        ),
    ] = 4,
    overrides: Overrides = None,
    calibration_text: CalibrationText = None,
    device: Device = "cpu",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace RECIPE.yaml if it is there.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rank the layers by the KL divergence that each causes when it alone is quantized.

    With --budget, the layers that do most harm for the bytes they save stay in float, as few as
    the perplexity on the calibration text allows; -o writes the recipe that says so, for castline
    compile. The output head, the embedding and the cache are in float while this is measured.

    **Example:** castline sensitivity HuggingFaceTB/SmolLM2-135M-Instruct --recipe
    w8a8-smoothquant-o3 --budget 1.02 -o mixed.yaml
    """
    if output is not None and budget is None:
        raise typer.BadParameter(
            "-o writes the recipe that keeps a budget. Give --budget, such as --budget 1.02."
        )
    with Failures(debug=debug):
        if output is not None:
            _require_free(output, overwrite)
        from castline.cli.quantize import calibration_overrides
        from castline.compiler.recipes.load import load_recipe

        changes = [*(overrides or ()), *calibration_overrides({"text": calibration_text})]
        loaded = load_recipe(recipe, changes)
        from castline.compiler.ranking import Question, rank_model

        with shown_progress(quiet=quiet) as progress:
            outcome = rank_model(
                source,
                recipe=loaded,
                question=Question(by, budget, samples),
                plan=plan,
                device=device,
                trust_remote_code=trust_remote_code,
                progress=progress,
            )
        if output is not None:
            _write(outcome, output)
        if as_json:
            typer.echo(json.dumps(outcome.to_json(), indent=2))
        else:
            _show(outcome, output)


def _require_free(output: Path, overwrite: bool) -> None:
    """Refuse what cannot be written now, not after the work."""
    if output.exists() and not (overwrite and output.is_file()):
        raise OutputError(f"{output}: exists already. Give another file, or --overwrite it.")
    if not output.parent.is_dir():
        raise OutputError(f"{output.parent}: is not a folder. Make it, or give another file.")


def _write(outcome: RankingOutcome, output: Path) -> None:
    """Write the recipe beside its place and rename it."""
    from castline.compiler.recipes.load import recipe_yaml

    unfinished = output.with_name(f"{output.name}.{os.getpid()}")
    try:
        unfinished.write_text(recipe_yaml(outcome.recipe), encoding="utf-8")
        unfinished.replace(output)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OutputError(f"{output}: cannot be written: {error.strerror}.") from error


def _show(outcome: RankingOutcome, output: Path | None) -> None:
    from castline.cli.tables import out

    console = out()
    heading = f"{outcome.source}, {outcome.recipe.name}: what each {outcome.by} does alone"
    console.print(Text(heading, style="bold"))
    console.print(_table(outcome))
    lines = [
        f"perplexity of the original: {outcome.perplexity_original:.3f}, with all of these "
        f"quantized: {_ratio(outcome, outcome.perplexity_quantized)}",
        *_kept(outcome),
        f"measured on {outcome.tokens:,} tokens of the calibration text: {outcome.text}",
    ]
    if output is not None:
        lines.append(f"written: {output}")
    for line in lines:
        console.print(Text(line))
    console.print(f"ranked in {duration(outcome.seconds)}")


def _table(outcome: RankingOutcome) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(outcome.by)
    for heading in ("KL divergence", "perplexity", "saves"):
        table.add_column(heading, justify="right")
    if outcome.budget is not None:
        table.add_column("")
    for unit in outcome.units:
        row = [
            unit.name,
            significant(unit.kl_divergence),
            f"{unit.perplexity:.3f}",
            size(unit.bytes_saved),
        ]
        if outcome.budget is not None:
            row.append("kept in float" if unit.kept else "")
        table.add_row(*row)
    return table


def _kept(outcome: RankingOutcome) -> list[str]:
    """What a budget came to."""
    if outcome.perplexity is None:
        return []
    lost = sum(unit.bytes_saved for unit in outcome.kept)
    return [
        f"within {outcome.budget:g} times that: {len(outcome.kept)} of {len(outcome.units)} kept "
        f"in float, {size(lost)} more; perplexity {_ratio(outcome, outcome.perplexity)}"
    ]


def _ratio(outcome: RankingOutcome, perplexity: float) -> str:
    return f"{perplexity:.3f} ({perplexity / outcome.perplexity_original:.4f} times)"
