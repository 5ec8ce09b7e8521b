"""Let plugins multiply by 4-bit codes in groups with zero-points or offsets."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from castline.compiler.passes.linear_bias import bias_after
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.plugin_limits import misfit, rank_misfit
from castline.compiler.passes.plugin_matrix import PluginMatrix, no_bias, weight_only_matrix
from castline.compiler.passes.replace import remove_unused, take_over
from castline.plugins.linear_w4a16.op import LINEAR_W4A16
from castline.plugins.linear_w4a16.packed import PACKED_LINEAR_W4A16, PACKED_LINEAR_W4A16_OFFSETS
from castline.plugins.op import DOMAIN, PluginOp

_MATRIX = 2  # axes of one weight; a stack of experts has three


@dataclass
class PackedLinears:
    """What a run of a pass that packs did."""

    names: list[str] = field(default_factory=list)
    """Names of the nodes that are plugins now."""
    declined: dict[str, str] = field(default_factory=dict)
    """Names of others -> why they are not."""


@dataclass(frozen=True)
class PackWeightOnly:
    """Products by UINT4 codes with zero-points, and castline.LinearW4A16, become packed ops.

    They are castline.PackedLinearW4A16 and castline.PackedLinearW4A16Offsets, which take the bias
    in, too. Stacks of experts stay as they are. No weight changes.
    """

    def __call__(self, model: ir.Model) -> PackedLinears:
        """Rewrite `model` in place; nothing is packed before the model is written."""
        done = PackedLinears()
        for node in list(model.graph):
            found = _stored(node)
            if found is None:
                continue
            (stored, block), x = found, node.inputs[0]
            assert x is not None, "products have two inputs"
            reason = rank_misfit(x) or misfit(_k(stored), block, stored[1].dtype)
            if reason is not None:
                done.declined[str(node.name)] = reason
                continue
            done.names.append(_pack(model, node, stored, block))
        return done


def _stored(node: ir.Node) -> tuple[list[ir.Value], int] | None:
    """Return codes [K, N], scales and zero-points or offsets, and the group; None of others."""
    if LINEAR_W4A16.is_op_of(node):
        stored = [value for value in node.inputs[1:] if value is not None]
        block = node.attributes.get_int("block_size", 0)
        return (stored, block) if _rank(stored[0]) == _MATRIX else None
    matrix = node.inputs[1] if node.op_type == "MatMul" else None
    dequantize = matrix.producer() if matrix is not None else None
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    stored = [value for value in dequantize.inputs if value is not None]
    if len(stored) < 3 or not all(value.is_initializer() for value in stored):
        return None
    if stored[0].dtype != ir.DataType.UINT4 or _rank(stored[0]) != _MATRIX:
        return None
    block = dequantize.attributes.get_int("block_size", 0)
    # Codes [N, K], as those of a table that a head shares, have their groups or channels elsewhere.
    along_k = dequantize.attributes.get_int("axis", 1) == (0 if block else 1)
    return (stored, block or _k(stored)) if along_k else None


def _pack(model: ir.Model, node: ir.Node, stored: list[ir.Value], block: int) -> str:
    matrix = weight_only_matrix(model.graph, stored, block)
    offsets = stored[2].dtype == ir.DataType.FLOAT
    op = PACKED_LINEAR_W4A16_OFFSETS if offsets else PACKED_LINEAR_W4A16
    x = node.inputs[0]
    assert x is not None, "products have two inputs"
    return put_packed(model, node, op, [x], matrix, {"block_size": block})


def put_packed(
    model: ir.Model,
    node: ir.Node,
    op: PluginOp,
    read: list[ir.Value],
    matrix: PluginMatrix,
    attributes: dict[str, int],
) -> str:
    """Put a packed op in the place of a product, and of the bias behind it; return its name.

    `read` is what it reads beside the weight, at the front.
    """
    op.define_in(model)
    bias, last = bias_after(node, matrix.n)
    if bias is None:
        bias = no_bias(model.graph, matrix.n, matrix.float_type)
    writer = NodeWriter(model.graph, str(node.name).rpartition("/")[0], last)
    inputs = [*read, *matrix.values, bias]
    packed = writer.add(op.name, inputs, {**matrix.attributes, **attributes}, DOMAIN)
    take_over(last.outputs[0], packed)
    remove_unused(model.graph, [last, node])
    producer = packed.producer()
    assert producer is not None, "it was just written"
    return str(producer.name)


def _k(stored: list[ir.Value]) -> int:
    shape = stored[0].shape
    assert shape is not None, "initializers have shapes"
    return int(shape.numpy()[0])


def _rank(value: ir.Value) -> int:
    assert value.shape is not None, "initializers have shapes"
    return len(value.shape)
