"""Say what of a recipe TensorRT-RTX cannot do, and the nearest that it can."""

from __future__ import annotations

from collections.abc import Iterator

from castline.compiler.recipes.recipe import Recipe

STATIC_RECIPE = "w8a8-smoothquant-static"


def unsupported(recipe: Recipe) -> tuple[str, ...]:
    """Return a sentence or two for each part of `recipe` that no engine computes."""
    return (*_zero_points(recipe), *_dynamic_activations(recipe))


def _zero_points(recipe: Recipe) -> Iterator[str]:
    schemes = {
        "weights": recipe.weights_scheme,
        "activations": recipe.activations_scheme,
        "head": recipe.head_scheme,
        "embedding": recipe.embedding_scheme,
    }
    refused = [name for name, scheme in schemes.items() if scheme and not scheme.symmetric]
    if refused:
        nearest = STATIC_RECIPE if recipe.activations_scheme else "w4a16-rtn-sym"
        yield (
            f"The tensorrt-rtx target takes no zero-points, and recipe {recipe.name!r} has "
            f"them in {', '.join(refused)}. Use {nearest}, or "
            f"{' '.join(f'--set {name}.symmetric=true' for name in refused)}."
        )


def _dynamic_activations(recipe: Recipe) -> Iterator[str]:
    scheme = recipe.activations_scheme
    if scheme is not None and scheme.dynamic:
        yield (
            "The tensorrt-rtx target quantizes activations by scales from calibration alone, and "
            f"recipe {recipe.name!r} takes them at run time ({scheme}). Use {STATIC_RECIPE} "
            "(static, per tensor), or --set activations.granularity=per-tensor --set "
            "activations.scales=static."
        )
