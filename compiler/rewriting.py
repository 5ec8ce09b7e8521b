"""Turn a float graph into the quantized one: fold the plan's scales, then place the codes."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.passes.fold import Fold
from castline.compiler.passes.quantize_activations import QuantizeActivations
from castline.compiler.passes.quantize_cache import QuantizeCache
from castline.compiler.passes.quantize_embedding import QuantizeEmbedding
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.plan.decisions import QuantPlan
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.searchable import layer_weights, stays_float
from castline.compiler.targets.context import note_own_cache
from castline.errors import OutputError

_ATTENTION = "through attention"  # such a scale is in the cached values, too


def quantize_graph(model: ir.Model, recipe: Recipe, plan: QuantPlan | None) -> tuple[str, ...]:
    """Rewrite the float graph of a model in place; return a note for all that is not as asked.

    `plan` is needed where the recipe takes numbers from a text. Raises OutputError where a plan
    folds a scale at a place that the graph does not have.
    """
    assert plan is not None or not recipe.needs_calibration, "the caller made a plan"
    kept = stays_float(model, recipe)
    if plan is not None:
        _fold(model, plan)
    notes: tuple[str, ...] = ()
    embedding, head = recipe.embedding_scheme, recipe.head_scheme
    if embedding is not None:
        # Where the head is tied to the table and quantized alike, both read the same codes.
        quantized = QuantizeEmbedding(embedding, with_head=head == embedding)(model)
        notes += quantized.notes(embedding)
    activations = _activations(model, recipe, plan, kept)
    if recipe.weights_scheme is not None:
        scheme = recipe.weights_scheme
        notes += QuantizeWeights(scheme, kept=kept)(model).notes(scheme)
    if head is not None:
        notes += QuantizeWeights(head, head=True)(model).notes(head)
    if activations:
        notes += QuantizeActivations(activations)(model).notes()
    if plan is not None and plan.caches:
        notes += QuantizeCache(plan.caches)(model).notes()
        note_own_cache(model)
    return notes


def _fold(model: ir.Model, plan: QuantPlan) -> None:
    sites = {site.value: site for site in fold_sites(model).sites}
    for planned in plan.sites:
        if planned.scale is None:
            continue
        site = sites.get(planned.site)
        if site is None or not site.foldable or (site.scales,) != planned.scale.shape:
            raise OutputError(
                f"The plan folds {len(planned.scale)} scales at {planned.site}, and the graph has "
                "no such place. Make the plan again with this version of Castline."
            )
        Fold(site, planned.scale)(model)
        if _ATTENTION in site.kind:
            note_own_cache(model)


def _activations(
    model: ir.Model, recipe: Recipe, plan: QuantPlan | None, kept: Mapping[str, str]
) -> dict[str, tuple[ActivationScheme, QuantParameters | None]]:
    scheme = recipe.activations_scheme
    if scheme is None:
        return {}
    if plan is None:
        return {name: (scheme, None) for name in layer_weights(model) if name not in kept}
    return {
        linear.name: (linear.activations, linear.parameters)
        for linear in plan.linears.values()
        if linear.activations is not None
    }
