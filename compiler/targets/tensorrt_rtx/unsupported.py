"""Say what of a recipe, or of a graph, TensorRT-RTX cannot do, and the nearest that it can."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.recipe import Recipe
from castline.plugins.linear_w4a4.op import LINEAR_W4A4, LINEAR_W4A4_ASYMMETRIC
from castline.plugins.linear_w4a8.op import LINEAR_W4A8, LINEAR_W4A8_ASYMMETRIC
from castline.plugins.linear_w8a8.op import LINEAR_W8A8, LINEAR_W8A8_ASYMMETRIC

_OF_RUN_TIME = (
    LINEAR_W8A8,
    LINEAR_W8A8_ASYMMETRIC,
    LINEAR_W4A8,
    LINEAR_W4A8_ASYMMETRIC,
    LINEAR_W4A4,
    LINEAR_W4A4_ASYMMETRIC,
)
STATIC_RECIPE = "w8a8-smoothquant-static"


def unsupported(recipe: Recipe) -> tuple[str, ...]:
    """Return a sentence or two for each part of `recipe` that no engine computes."""
    return (
        *_zero_points(recipe),
        *_dynamic_activations(recipe),
        *_attention(recipe),
        *_reassembly(recipe),
    )


def unsupported_products(model: ir.Model) -> tuple[str, ...]:
    """Return a sentence or two where products of a neutral graph are such that no engine has.

    Those that a recipe asks for are refused before; these come from a quantized checkpoint.
    """
    count = sum(any(op.is_op_of(node) for op in _OF_RUN_TIME) for node in model.graph)
    if not count:
        return ()
    return (
        "The tensorrt-rtx target quantizes activations by stored scales alone, and the checkpoint "
        f"has {count} linears that take them at run time. Use --target onnxruntime, or a recipe "
        "for weights alone, such as --recipe w8a16-rtn --allow-lossy.",
    )


def _zero_points(recipe: Recipe) -> Iterator[str]:
    schemes = {
        "weights": _unless_products_take_it(recipe.weights_scheme),
        "activations": recipe.activations_scheme,
        "head": _unless_products_take_it(recipe.head_scheme),
        "embedding": recipe.embedding_scheme,
    }
    if recipe.embedding_scheme == recipe.head_scheme:
        schemes["head"] = recipe.head_scheme  # a tied head reads the table's codes
    refused = [name for name, scheme in schemes.items() if scheme and not scheme.symmetric]
    if refused:
        nearest = STATIC_RECIPE if recipe.activations_scheme else "w4a16-rtn-sym"
        yield (
            "The tensorrt-rtx target takes zero-points in 4-bit weights of linears alone, and "
            f"recipe {recipe.name!r} has them in {', '.join(refused)}. Use {nearest}, or "
            f"{' '.join(f'--set {name}.symmetric=true' for name in refused)}."
        )


def _unless_products_take_it(scheme: WeightScheme | None) -> WeightScheme | None:
    return None if scheme is not None and scheme.storage_bits == 4 else scheme


def _dynamic_activations(recipe: Recipe) -> Iterator[str]:
    scheme = recipe.activations_scheme
    if scheme is not None and scheme.dynamic:
        yield (
            "The tensorrt-rtx target quantizes activations by scales from calibration alone, and "
            f"recipe {recipe.name!r} takes them at run time ({scheme}). Use {STATIC_RECIPE} "
            "(static, per tensor), or --set activations.granularity=per-tensor --set "
            "activations.scales=static."
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
            "The tensorrt-rtx target has no operator that takes channels apart and puts others "
            f"together, and recipe {recipe.name!r} does so. Use --set reassembly=null, or --target "
            "onnxruntime."
        )
