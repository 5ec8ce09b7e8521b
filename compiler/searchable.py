"""Ask a float graph which of its linears are quantized, and which stay as they are."""

from __future__ import annotations

import onnx_ir as ir

from castline.compiler.graph.linears import linears
from castline.compiler.graph.stacked import routers, stacked_linears
from castline.compiler.recipes.recipe import Recipe
from castline.errors import RecipeError

CHOOSES_EXPERTS = "it chooses experts"
SINGLE_OUTPUT = "it has a single output"
EXPERTS_READ_FLOAT = "its experts are chosen at run time, and read float activations"


def layer_weights(model: ir.Model) -> tuple[str, ...]:
    """Return the names of the weights of all linears of the layers, stacks of experts too."""
    single = (linear.name for linear in linears(model) if not linear.is_head)
    stacks = (stack.name for stack in stacked_linears(model))
    return (*single, *stacks)


def stays_float(model: ir.Model, recipe: Recipe) -> dict[str, str]:
    """Return {weight: why it stays in float, as the end of a sentence}.

    Raises RecipeError for a pattern of the recipe's `keep` that no weight has.
    """
    choosing = routers(model)
    kept: dict[str, str] = {}
    for linear in linears(model):
        if linear.is_head:
            continue
        if linear.n == 1:
            kept[linear.name] = SINGLE_OUTPUT
        elif linear.node in choosing:
            kept[linear.name] = CHOOSES_EXPERTS
    matched: set[str] = set()
    for name in layer_weights(model):
        pattern = recipe.keeps(name)
        if pattern is not None:
            matched.add(pattern)
            kept.setdefault(name, f"the recipe keeps {pattern}")
    _require_matched(recipe, matched, layer_weights(model))
    return kept


def reads_float(model: ir.Model) -> dict[str, str]:
    """Return {stack of weights: why its activations stay in float, as the end of a sentence}."""
    return {stack.name: EXPERTS_READ_FLOAT for stack in stacked_linears(model)}


def _require_matched(recipe: Recipe, matched: set[str], names: tuple[str, ...]) -> None:
    unmatched = [
        pattern
        for pattern in recipe.keep
        if pattern not in matched and not any(_keeps_alone(recipe, pattern, name) for name in names)
    ]
    if unmatched:
        raise RecipeError(
            f"recipe {recipe.name!r}: keep: no linear of the model is called "
            f"{', '.join(unmatched)}. Names are such as {', '.join(names[:3])}; * stands for any "
            "characters."
        )


def _keeps_alone(recipe: Recipe, pattern: str, name: str) -> bool:
    return recipe.model_copy(update={"keep": (pattern,)}).keeps(name) is not None
