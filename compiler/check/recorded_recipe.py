"""Read from a manifest which recipe a folder was compiled by, and so what it is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from castline.compiler.recipes.load import recipe_from
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.recipes.thresholds import Thresholds
from castline.errors import RecipeError

_GATE = "gate."


def recorded_recipe(manifest: Mapping[str, object]) -> Recipe | None:
    """Return the recipe of a manifest; None for a folder that was exported and not quantized."""
    given = manifest.get("recipe")
    return Recipe.model_validate(given) if given else None


def recorded_thresholds(
    manifest: Mapping[str, object], overrides: Sequence[str] = ()
) -> Thresholds:
    """Return the thresholds of a manifest's recipe, with `gate.FIELD=VALUE` of `overrides` put in.

    Without a recipe, they are those of `overrides` alone. Raises RecipeError for an override that
    is no threshold.
    """
    if wrong := [one for one in overrides if not one.strip().startswith(_GATE)]:
        raise RecipeError(
            f"override {wrong[0]!r}: only thresholds can be changed when a folder is checked, such "
            "as gate.kl_divergence=0.05. Compile it again to change how it is quantized."
        )
    recipe = recorded_recipe(manifest) or Recipe(name="none", weights=None)
    return recipe_from(recipe.model_dump(mode="json"), "the manifest", overrides).gate
