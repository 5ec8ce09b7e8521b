"""Let plugins multiply codes by codes: weights of integer products in the packed layout."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from castline.compiler.passes.pack_weight_only import PackedLinears, put_packed
from castline.compiler.passes.plugin_limits import misfit, rank_misfit
from castline.compiler.passes.plugin_matrix import grouped_matrix, integer_matrix
from castline.plugins.catalogue import PACKED
from castline.plugins.op import PluginOp

_OF_TOKENS = ("codes", "scale", "zero_point")
_PER_TENSOR = (
    "one scale of run time is shared by all that it reads, and plugins take one a token; use "
    "--set activations.granularity=per-token"
)


@dataclass(frozen=True)
class PackProducts:
    """castline.LinearW8A8, W4A8 and W4A4 become packed ops, W4A8 in groups, too.

    Activations have zero-points or not. A bias behind one is taken in; one without reads zeros.
    No weight changes.
    """

    def __call__(self, model: ir.Model) -> PackedLinears:
        """Rewrite `model` in place; nothing is packed before the model is written."""
        done = PackedLinears()
        for node in list(model.graph):
            op = next((op for op in PACKED if op.is_op_of(node)), None)
            if op is None:
                continue
            given = dict(zip(op.inputs, node.inputs, strict=True))
            of_tokens = [value for name in _OF_TOKENS if (value := given.get(name)) is not None]
            of_weights = [
                value for name, value in given.items() if name not in _OF_TOKENS and value
            ]
            block = node.attributes.get_int("block_size", 0)
            reason = _declined(of_tokens, of_weights, block)
            if reason is not None:
                done.declined[str(node.name)] = reason
                continue
            done.names.append(_pack(model, node, PACKED[op], of_tokens, of_weights))
        return done


def _pack(
    model: ir.Model,
    node: ir.Node,
    packed: PluginOp,
    of_tokens: list[ir.Value],
    of_weights: list[ir.Value],
) -> str:
    sums = "weight_sums" in packed.inputs
    block = node.attributes.get_int("block_size", 0)
    if not block:
        matrix = integer_matrix(model.graph, of_weights, sums=sums)
        return put_packed(model, node, packed, of_tokens, matrix, {})
    matrix = grouped_matrix(model.graph, of_weights, sums=sums)
    return put_packed(model, node, packed, of_tokens, matrix, {"block_size": block})


def _declined(of_tokens: list[ir.Value], of_weights: list[ir.Value], block: int) -> str | None:
    codes, scale = of_tokens[:2]
    if scale.shape is not None and len(scale.shape) == 0:
        return _PER_TENSOR
    shape = of_weights[0].shape
    assert shape is not None, "initializers have shapes"
    k = int(shape.numpy()[0])
    return rank_misfit(codes) or misfit(k, block or k, of_weights[-1 if block else 1].dtype)
