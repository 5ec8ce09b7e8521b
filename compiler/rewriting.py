"""Turn a float graph into the quantized one: fold scales, reassemble channels, place codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.graph.folds.site import Site
from castline.compiler.importing.imported import Imported
from castline.compiler.importing.placing import place_codes
from castline.compiler.passes.authorship import made_by
from castline.compiler.passes.factors_into_gain import FactorsIntoGain
from castline.compiler.passes.factors_into_scales import FactorsIntoScales
from castline.compiler.passes.fold import Fold
from castline.compiler.passes.quantize_activations import QuantizeActivations
from castline.compiler.passes.quantize_attention import QuantizeAttention
from castline.compiler.passes.quantize_cache import QuantizeCache
from castline.compiler.passes.quantize_embedding import QuantizeEmbedding
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.passes.reassemble_inputs import ReassembleInputs
from castline.compiler.passes.transform_inputs import InputTransform, TransformInputs
from castline.compiler.plan.decisions import QuantPlan
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.searchable import layer_weights, stays_float
from castline.compiler.targets.context import note_own_cache
from castline.errors import OutputError

_ATTENTION = "through attention"  # such a scale is in the cached values, too


def quantize_graph(
    model: ir.Model, recipe: Recipe, plan: QuantPlan | None, stored: Imported | None = None
) -> tuple[str, ...]:
    """Rewrite the float graph of a model in place; return a note for all that is not as asked.

    `plan` is needed where the recipe takes numbers from a text, `stored` where it carries over what
    the checkpoint stores. Raises OutputError where a plan folds a scale at a place that the graph
    does not have.
    """
    if recipe.as_stored:
        assert stored is not None, "the caller read what is stored"
        with made_by(model, "place_codes"):
            return place_codes(model, stored)
    assert plan is not None or not recipe.needs_calibration, "the caller made a plan"
    kept = stays_float(model, recipe)
    if plan is not None:
        _fold(model, plan)
        _divide(model, plan)
        _reassemble(model, plan)
    notes: tuple[str, ...] = ()
    embedding, head = recipe.embedding_scheme, recipe.head_scheme
    if embedding is not None:
        # Where the head is tied to the table and quantized alike, both read the same codes.
        with made_by(model, "QuantizeEmbedding"):
            quantized = QuantizeEmbedding(embedding, with_head=head == embedding)(model)
        notes += quantized.notes(embedding)
    activations = _activations(model, recipe, plan, kept)
    if recipe.weights_scheme is not None:
        scheme = recipe.weights_scheme
        given = {} if plan is None else plan.codes
        with made_by(model, "QuantizeWeights"):
            notes += QuantizeWeights(scheme, kept=kept, given=given)(model).notes(scheme)
        notes += _wider_storage(scheme)
    if head is not None:
        with made_by(model, "QuantizeWeights"):
            notes += QuantizeWeights(head, head=True)(model).notes(head)
    if activations:
        with made_by(model, "QuantizeActivations"):
            notes += QuantizeActivations(activations)(model).notes()
        with made_by(model, "FactorsIntoScales"):
            FactorsIntoScales()(model)
    if recipe.attention_scheme is not None:
        with made_by(model, "QuantizeAttention"):
            notes += QuantizeAttention(recipe.attention_scheme)(model).notes()
        note_own_cache(model)
    if plan is not None and plan.caches:
        with made_by(model, "QuantizeCache"):
            notes += QuantizeCache(plan.caches)(model).notes()
        note_own_cache(model)
    return notes


def planned_folds(model: ir.Model, plan: QuantPlan) -> Iterator[tuple[Site, Array]]:
    """Yield each site of a float graph that the plan folds a scale at, with the scale.

    Raises OutputError where the graph does not have the place.
    """
    sites = {site.value: site for site in fold_sites(model).sites}
    for planned in plan.sites:
        if planned.scale is None or planned.explicit:
            continue
        site = sites.get(planned.site)
        if site is None or not site.foldable or (site.scales,) != planned.scale.shape:
            raise OutputError(
                f"The plan folds {len(planned.scale)} scales at {planned.site}, and the graph has "
                "no such place. Make the plan again with this version of Castline."
            )
        yield site, planned.scale


def _fold(model: ir.Model, plan: QuantPlan) -> None:
    for site, scale in planned_folds(model, plan):
        with made_by(model, "Fold"):
            Fold(site, scale)(model)
        if _ATTENTION in site.kind:
            note_own_cache(model)


def _divide(model: ir.Model, plan: QuantPlan) -> None:
    """Divide what linears read where nothing takes the scale up, by a node of its own.

    Comes before their weights are codes: the linears are found by their weights.
    """
    transforms = {
        name: InputTransform(factor=1 / site.channel_scale)
        for site in plan.sites
        if site.explicit and site.channel_scale is not None
        for name in site.linears
    }
    with made_by(model, "TransformInputs"):
        missing = TransformInputs(transforms)(model)
    if missing:
        raise OutputError(
            f"The plan divides what {', '.join(missing)} reads, and the graph has no such linear. "
            "Make the plan again with this version of Castline."
        )


def _reassemble(model: ir.Model, plan: QuantPlan) -> None:
    """Take channels apart and put others together before the linears whose codes are made for it.

    Comes before their weights are codes, and after what scales the value.
    """
    placed = {
        name: site.reassembly.channels
        for site in plan.sites
        if site.reassembly is not None
        for name in site.reassembly.linears
    }
    with made_by(model, "ReassembleInputs"):
        missing = ReassembleInputs(placed)(model)
    with made_by(model, "FactorsIntoGain"):
        FactorsIntoGain()(model)
    if missing:
        raise OutputError(
            f"The plan reassembles what {', '.join(missing)} reads, and the graph has no such "
            "linear. Make the plan again with this version of Castline."
        )


def _wider_storage(scheme: WeightScheme) -> tuple[str, ...]:
    """Return a note where codes take more bits than they need: ONNX has types of 4 and of 8."""
    if scheme.bits == scheme.storage_bits:
        return ()
    return (f"{scheme.bits}-bit codes are stored in {scheme.storage_bits} bits",)


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
