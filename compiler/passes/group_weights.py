"""Write weights of two-level groups once, for products by 4-bit codes and for products by bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.initializers import shared_constant
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.packed_matrix import packed_codes_of
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.two_level import MOST_UNITS

_BYTES = 256
_ZERO_CODE = 8  # codes are stored this much above what they stand for


@dataclass(frozen=True)
class GroupWeights:
    """One matrix [K, N] in two forms; the file holds the codes, and scales of both levels."""

    codes: ir.Value
    """uint8 [N, K / block, block / 2], as MatMulNBits reads them."""
    scales: ir.Value
    """[N * K / block], of both levels together, in the type of the weights' scale."""
    steps: ir.Value
    """int8 [K, N], codes times the whole numbers of their groups."""
    weight_scale: ir.Value
    """[N], of the steps."""
    k: int
    n: int
    block: int


def group_weights(
    codes: ir.Value,
    group_scale: ir.Value,
    weight_scale: ir.Value,
    graph: ir.Graph,
    writer: NodeWriter,
) -> GroupWeights:
    """Return what castline.LinearW4A8Groups multiplies by in both forms.

    `codes` are int4 [K, N], `group_scale` int8 [G, N], `weight_scale` [N]. Scales and steps come
    from nodes that read weights alone, which ONNX Runtime computes when it loads them.
    """
    assert codes.shape is not None, "initializers have shapes"
    assert group_scale.shape is not None, "initializers have shapes"
    group = int(codes.shape.numpy()[0]) // int(group_scale.shape.numpy()[0])
    matrix = packed_codes_of(graph, codes, group_scale, None, group, rows_are_outputs=False)
    assert not isinstance(matrix, str), "schemes of two levels have groups of 16 to 128"
    packed, units = matrix.values
    rows = writer.constant("rows", (matrix.n, matrix.k // matrix.block, 1))
    units = writer.add("Reshape", [units, rows])
    steps = _steps(packed, units, (matrix.k, matrix.n), graph, writer)
    scales = _scales(units, weight_scale, writer)
    return GroupWeights(packed, scales, steps, weight_scale, matrix.k, matrix.n, matrix.block)


def _scales(units: ir.Value, weight_scale: ir.Value, writer: NodeWriter) -> ir.Value:
    float_type = weight_scale.dtype or ir.DataType.FLOAT
    factors = writer.add("Cast", [units], {"to": float_type})
    channels = writer.add("Reshape", [weight_scale, writer.constant("channels", (-1, 1, 1))])
    products = writer.add("Mul", [factors, channels])
    scales = writer.add("Reshape", [products, writer.constant("flat", (-1,))])
    scales.type = ir.TensorType(float_type)
    return scales


def _steps(
    packed: ir.Value, units: ir.Value, sizes: tuple[int, int], graph: ir.Graph, writer: NodeWriter
) -> ir.Value:
    """Look up both products of each byte: ONNX Runtime keeps every step in memory while it loads.

    Unpacking the halves and multiplying them would take 18 bytes a weight, and this takes 7.
    """
    k, n = sizes
    table = shared_constant(graph, "products_of_codes", products_of_codes())
    int32 = {"to": ir.DataType.INT32}
    row_length = shared_constant(graph, "codes_of_a_byte", np.array(_BYTES, np.int32))
    row = writer.add("Mul", [writer.add("Cast", [units], int32), row_length])
    index = writer.add("Add", [writer.add("Cast", [packed], int32), row])
    pairs = writer.add("Gather", [table, index])
    by_output = writer.add("Reshape", [pairs, writer.constant("matrix", (n, k))])
    steps = writer.add("Transpose", [by_output])
    steps.shape, steps.type = ir.Shape([k, n]), ir.TensorType(ir.DataType.INT8)
    return steps


def products_of_codes() -> Array:
    """Return int8 [17 * 256, 2]: at 256 u + b the codes in the byte b, the low one first, times u.

    Codes of no group, whose product with its whole number would not be INT8, are cut off.
    """
    byte = np.arange(_BYTES)
    codes = np.stack([byte & 15, byte >> 4], axis=-1) - _ZERO_CODE
    products = np.arange(MOST_UNITS + 1)[:, None, None] * codes
    table: Array = products.clip(-128, 127).astype(np.int8).reshape(-1, 2)
    return table
