"""Say what of a recipe, or of a graph, plugins compute, and what of that they cannot."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from castline.compiler.graph.linears import Linear, linears
from castline.compiler.passes.plugin_limits import (
    FLOAT_TYPES,
    misfit,
    rank_misfit,
    reassembly_misfit,
    width_misfit,
)
from castline.compiler.passes.weight_codes import block_of
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.searchable import stays_float
from castline.compiler.targets.tensorrt.reading import is_plugin, node_name
from castline.compiler.targets.tensorrt.refusals import Finding
from castline.plugins.catalogue import PACKED
from castline.plugins.linear_w4a16.op import LINEAR_W4A16
from castline.plugins.op import DOMAIN
from castline.plugins.reassemble_and_quantize.op import (
    REASSEMBLE_AND_QUANTIZE,
    REASSEMBLE_AND_QUANTIZE_ASYMMETRIC,
)
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS

_JUDGED = (LINEAR_W4A16, *PACKED)  # by the passes that pack
_REASSEMBLING = (
    REASSEMBLE_CHANNELS,
    REASSEMBLE_AND_QUANTIZE,
    REASSEMBLE_AND_QUANTIZE_ASYMMETRIC,
)
_PLACE = 3  # of their inputs, the places of channels that are added
_FOUR_BITS = 4
_FLOAT32 = "plugins read float16 and bfloat16; use --dtype float16"


def zero_points_need(recipe: Recipe) -> str | None:
    """Return what of `recipe` plugins compute with native operators to fall back on, if any."""
    schemes = {"weights": recipe.weights_scheme, "head": recipe.head_scheme}
    found = [name for name, scheme in schemes.items() if _has_4_bit_zero_points(scheme)]
    return f"zero-points in {' and '.join(found)}" if found else None


def run_time_need(recipe: Recipe) -> str | None:
    """Return what of `recipe` nothing but plugins computes, if any."""
    needs = []
    scheme = recipe.activations_scheme
    if scheme is not None and scheme.dynamic:
        needs.append("activation scales taken at run time")
    if recipe.reassembly is not None:
        needs.append("channels taken apart and put together")
    return " and ".join(needs) or None


def misfits(model: ir.Model, recipe: Recipe) -> tuple[Finding, ...]:
    """Return every linear of a float graph that `recipe` would have plugins compute in vain."""
    kept = {} if recipe.as_stored else stays_float(model, recipe)
    return tuple(
        Finding(linear.name, "linear", reason)
        for linear in linears(model)
        if linear.name not in kept and (reason := _reason(linear, recipe)) is not None
    )


def _reason(linear: Linear, recipe: Recipe) -> str | None:
    scheme = recipe.head_scheme if linear.is_head else recipe.weights_scheme
    activations = None if linear.is_head else recipe.activations_scheme
    integer = activations is not None and activations.dynamic
    if scheme is not None:
        group = scheme.group_for(linear.k)
        in_float_groups = isinstance(group, int) and not scheme.two_level
        if _has_4_bit_zero_points(scheme) or (integer and not in_float_groups):
            reason = misfit(linear.k, block_of(group, linear.k), linear.weight.dtype)
            if reason is not None:
                return reason
    if not integer:
        return None
    return _FLOAT32 if linear.weight.dtype not in FLOAT_TYPES else width_misfit(linear.k)


def _has_4_bit_zero_points(scheme: WeightScheme | None) -> bool:
    return scheme is not None and not scheme.symmetric and scheme.storage_bits == _FOUR_BITS


def unread(model: ir.Model) -> Iterator[Finding]:
    """Yield the nodes of a lowered graph that have no plugin, or one that does not read its input.

    Products that could be packed are judged when they are.
    """
    for node in model.graph:
        reason = None
        if node.domain == DOMAIN and not any(op.is_op_of(node) for op in _JUDGED):
            reason = _unread(node) if is_plugin(node) else "no plugin computes it"
        if reason is not None:
            yield Finding(node_name(node), node.op_type, reason)


def _unread(node: ir.Node) -> str | None:
    x = node.inputs[0]
    assert x is not None, "our ops have all their inputs"
    if x.dtype == ir.DataType.FLOAT:
        return _FLOAT32
    width = None if x.shape is None else x.shape[-1]
    if not isinstance(width, int):
        return rank_misfit(x)
    return rank_misfit(x) or width_misfit(width) or _too_many_added(node, width)


def _too_many_added(node: ir.Node, k: int) -> str | None:
    if not any(op.is_op_of(node) for op in _REASSEMBLING):
        return None
    place = node.inputs[_PLACE]
    assert place is not None, "our ops have all their inputs"
    assert place.shape is not None, "initializers have shapes"
    return reassembly_misfit(k, int(place.shape.numpy()[0]))
