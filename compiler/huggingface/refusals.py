"""Refuse what a checkpoint in the compressed-tensors format, as it is written here, cannot hold."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from castline.compiler.graph.stacked import stacked_linears
from castline.compiler.importing.imported import Imported
from castline.compiler.plan.decisions import QuantPlan
from castline.compiler.recipes.recipe import Recipe
from castline.errors import RecipeError, TargetError
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.interface import runs_remote_code
from castline.exporters.readers.tensors import named

_LISTED = 4  # names that an error spells out before it only counts
_ELSEWHERE = "or use --target onnxruntime"


def require_recipe(recipe: Recipe) -> None:
    """Raise one TargetError for every field of a recipe that asks for what cannot be written."""
    problems = []
    if recipe.activations is not None:
        problems.append("activations must be null: only weights are written as codes")
    if recipe.kv_cache is not None:
        problems.append("kv_cache must be null: a runtime chooses the type of its cache")
    if recipe.head != "keep":
        problems.append("head must be keep: codes are written for the linears of layers only")
    if recipe.embedding != "keep":
        problems.append("embedding must be keep: runtimes look tokens up in float")
    if problems:
        raise TargetError(
            f"target huggingface: recipe {recipe.name!r}: {'; '.join(problems)}. Take a recipe "
            f"such as w4a16-awq or w4a16-rtn, change this one with --set, {_ELSEWHERE}."
        )


def require_own_code(checkpoint: Checkpoint) -> None:
    """Raise TargetError for a model whose code is the checkpoint's: it would have to go along."""
    if runs_remote_code(checkpoint.config):
        raise TargetError(
            f"target huggingface: {checkpoint.source} brings Python code of its own, which is not "
            f"copied. Use a model that transformers itself knows, {_ELSEWHERE}."
        )


def require_asked(checkpoint: Checkpoint, recipe: Recipe, *, allow_lossy: bool) -> None:
    """Raise RecipeError where quantized weights would be quantized anew unasked."""
    if checkpoint.quantized and not recipe.as_stored and not allow_lossy:
        raise RecipeError(
            f"recipe {recipe.name!r} chooses codes anew, and {checkpoint.source} stores those of "
            f"{len(checkpoint.quantized)} weights. --recipe as-stored carries them over "
            "unchanged, --allow-lossy quantizes their values."
        )


def require_codes_alone(stored: Imported) -> None:
    """Raise one TargetError for what a checkpoint stores beside codes, scales and zero-points."""
    problems = {
        "columns in another order, or scales of what is read": list(stored.transforms),
        "offsets": [name for name, given in stored.given.items() if given.has_offsets],
        "E4M3 numbers": [name for name, given in stored.given.items() if given.float8],
        "activations in codes": [*stored.activations, *stored.float8_activations],
    }
    found = {what: names for what, names in problems.items() if names}
    if found:
        listed = "; ".join(f"{what}: {named(names, _LISTED)}" for what, names in found.items())
        raise TargetError(
            f"target huggingface carries over codes, scales and zero-points alone, and there are "
            f"{listed}. Use --target onnxruntime, or quantize anew from the checkpoint in float."
        )


def require_plan(plan: QuantPlan) -> None:
    """Raise TargetError for scales that a node of the graph's own divides by."""
    explicit = [site.site for site in plan.sites if site.explicit and site.scale is not None]
    if explicit:
        raise TargetError(
            f"target huggingface: the plan divides {len(explicit)} values by scales that nothing "
            f"in the model takes up ({named(explicit, _LISTED)}), and a model of transformers has "
            "no place for a division of its own. Search without such scales, --set "
            f"scaling.explicit=false, {_ELSEWHERE}."
        )


def require_no_experts(model: ir.Model, kept: Collection[str]) -> None:
    """Raise TargetError for stacks of experts that would be quantized."""
    stacks = [stack.name for stack in stacked_linears(model) if stack.name not in kept]
    if stacks:
        raise TargetError(
            f"target huggingface: {named(stacks, _LISTED)} would be quantized: transformers holds "
            "the experts of a layer as one parameter, which compressed-tensors has no codes for. "
            f"Leave them in float, --set keep='[\"*.experts.*\"]', {_ELSEWHERE}."
        )
