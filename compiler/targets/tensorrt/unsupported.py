"""Say what of a recipe no engine computes, and the nearest that one does."""

from __future__ import annotations

from collections.abc import Iterator

from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.targets.options import TargetOptions

STATIC_RECIPE = "w8a8-smoothquant-static"
DYNAMIC_RECIPE = "w8a8-smoothquant"
NEVER = "--plugins never"


def unsupported(recipe: Recipe, target: str, *, plugins: bool) -> tuple[str, ...]:
    """Return a sentence or two for each part of `recipe` that no engine computes.

    `target` is its name; `plugins` says whether Castline's plugins may compute some of it.
    """
    return (
        *_zero_points(recipe, target),
        *(_per_tensor(recipe, target) if plugins else _dynamic_activations(recipe, target)),
        *_attention(recipe, target),
        *(() if plugins else _reassembly(recipe, target)),
    )


def refused_forms(recipe: Recipe, options: TargetOptions) -> tuple[str, ...]:
    """Return a sentence for each form of a graph that no engine has together with `recipe`."""
    if recipe.kv_cache is None or options.kv_cache == "growing":
        return ()
    return (
        "TensorRT writes into a fixed cache in float32, float16 and bfloat16 alone, and recipe "
        f"{recipe.name!r} keeps codes in it. Use --kv-cache growing, or --set kv_cache=null.",
    )


def _zero_points(recipe: Recipe, target: str) -> Iterator[str]:
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
            f"The {target} target takes zero-points in 4-bit weights of linears and in "
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


def _per_tensor(recipe: Recipe, target: str) -> Iterator[str]:
    scheme = recipe.activations_scheme
    if scheme is not None and scheme.dynamic and scheme.granularity == "per-tensor":
        yield (
            f"The {target} target takes scales at run time for each token, and recipe "
            f"{recipe.name!r} takes one for all ({scheme}). Use --set "
            "activations.granularity=per-token, or --set activations.scales=static."
        )


def _dynamic_activations(recipe: Recipe, target: str) -> Iterator[str]:
    scheme = recipe.activations_scheme
    if scheme is not None and scheme.dynamic:
        yield (
            f"Without plugins ({NEVER}) the {target} target quantizes activations by scales "
            f"from calibration alone, and recipe {recipe.name!r} takes them at run time "
            f"({scheme}). Leave {NEVER} out, or use {STATIC_RECIPE} (static, per tensor), or --set "
            "activations.granularity=per-tensor --set activations.scales=static."
        )


def _attention(recipe: Recipe, target: str) -> Iterator[str]:
    if recipe.attention is not None:
        yield (
            f"The {target} target leaves what attention reads in float, and recipe "
            f"{recipe.name!r} quantizes it by scales of run time. Use --set attention=null, or "
            "kv_cache for keys and values."
        )


def _reassembly(recipe: Recipe, target: str) -> Iterator[str]:
    if recipe.reassembly is not None:
        yield (
            f"Without plugins ({NEVER}) the {target} target has no operator that takes "
            f"channels apart and puts others together, and recipe {recipe.name!r} does so. Leave "
            f"{NEVER} out, or use --set reassembly=null, or --target onnxruntime."
        )
