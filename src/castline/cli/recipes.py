"""castline recipes: list the presets, and show or validate one recipe."""

# ruff: noqa: PLC0415 - pydantic takes a tenth of a second that --help does not have.

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from castline.cli.failures import Failures
from castline.cli.options import AsJson, Debug


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|FILE]",
            help="Print this recipe as YAML, to start your own from; a file is validated.",
            show_default=False,
        ),
    ] = None,
    *,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the recipes that come with Castline, or show one.

    A recipe is a YAML file that says which weights to quantize, how, and how close the result
    must stay to the original.

    **Example:** castline recipes w4a16-rtn > mine.yaml, then
    castline compile MODEL --recipe mine.yaml -o OUT
    """
    with Failures(debug=debug):
        from castline.compiler.recipes.load import load_recipe, preset_names, recipe_yaml

        if name is not None:
            recipe = load_recipe(name)
            text = json.dumps(recipe.model_dump(), indent=2) if as_json else recipe_yaml(recipe)
            typer.echo(text.rstrip("\n"))
            return
        presets = [load_recipe(preset) for preset in preset_names()]
        if as_json:
            typer.echo(json.dumps([recipe.model_dump() for recipe in presets], indent=2))
            return
        from castline.cli.tables import out

        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("recipe")
        table.add_column("what it does")
        for recipe in presets:
            table.add_row(recipe.name, recipe.description)
        out().print(table)
