"""Say what of a recipe no TensorRT-RTX engine computes, and the nearest that one does."""

from __future__ import annotations

from collections.abc import Iterator

from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.recipe import Recipe

STATIC_RECIPE = "w8a8-smoothquant-static"
DYNAMIC_RECIPE = "w8a8-smoothquant"
NEVER = "--plugins never"


def unsupported(recipe: Recipe, *, plugins: bool) -> tuple[str, ...]:
    """Return a sentence or two for each part of `recipe` that no engine computes.

    `plugins` says whether Castline's plugins may compute some of it.
    """
    return (
        *_zero_points(recipe),
        *(_per_tensor(recipe) if plugins else _dynamic_activations(recipe)),
        *_attention(recipe),
        *(() if plugins else _reassembly(recipe)),
    )


def _zero_points(recipe: Recipe) -> Iterator[str]:
    activations = recipe.activations_scheme
    schemes = {
        "weights": _unless_products_take_it(recipe.weights_scheme),
        # Scales of run time are a plugin's, zero-points or not.
        "activations": None if activations and activations.dynamic else activations,
        "head": _unless_products_take_it(recipe.head_scheme),
        "embedding": recipe.embedding_scheme,
    }
    if recipe.embedding_scheme == recipe.head_scheme:
        schemes["head"] = recipe.head_scheme  # a tied head reads the table's codes
    refused = [name for name, scheme in schemes.items() if scheme and not scheme.symmetric]
    if refused:
        nearest = _nearest(recipe)
        yield (
            "The tensorrt-rtx target takes zero-points in 4-bit weights of linears and in "
            f"activations of run time alone, and recipe {recipe.name!r} has them in "
            f"{', '.join(refused)}. Use {nearest}, or "
            f"{' '.join(f'--set {name}.symmetric=true' for name in refused)}."
        )


def _nearest(recipe: Recipe) -> str:
    if recipe.activations_scheme is None:
        return "w4a16-rtn-sym"
    return DYNAMIC_RECIPE if recipe.activations_scheme.dynamic else STATIC_RECIPE


def _unless_products_take_it(scheme: WeightScheme | None) -> WeightScheme | None:
    return None if scheme is not None and scheme.storage_bits == 4 else scheme


def _per_tensor(recipe: Recipe) -> Iterator[str]:
    scheme = recipe.activations_scheme
    if scheme is not None and scheme.dynamic and scheme.granularity == "per-tensor":
        yield (
            "The tensorrt-rtx target takes scales at run time for each token, and recipe "
            f"{recipe.name!r} takes one for all ({scheme}). Use --set "
            "activations.granularity=per-token, or --set activations.scales=static."
        )


def _dynamic_activations(recipe: Recipe) -> Iterator[str]:
    scheme = recipe.activations_scheme
    if scheme is not None and scheme.dynamic:
        yield (
            f"Without plugins ({NEVER}) the tensorrt-rtx target quantizes activations by scales "
            f"from calibration alone, and recipe {recipe.name!r} takes them at run time "
            f"({scheme}). Leave {NEVER} out, or use {STATIC_RECIPE} (static, per tensor), or --set "
            "activations.granularity=per-tensor --set activations.scales=static."
        )


def _attention(recipe: Recipe) -> Iterator[str]:
    if recipe.attention is not None:
        yield (
            "The tensorrt-rtx target leaves what attention reads in float, and recipe "
            f"{recipe.name!r} quantizes it by scales of run time. Use --set attention=null, or "
            "kv_cache for keys and values."
        )


def _reassembly(recipe: Recipe) -> Iterator[str]:
    if recipe.reassembly is not None:
        yield (
            f"Without plugins ({NEVER}) the tensorrt-rtx target has no operator that takes "
            f"channels apart and puts others together, and recipe {recipe.name!r} does so. Leave "
            f"{NEVER} out, or use --set reassembly=null, or --target onnxruntime."
        )
