"""Repack a dequantized matrix as the blocked kernels of com.microsoft store it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.initializers import add_initializer
from castline.compiler.passes.promised_matrix import PromisedParts
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.packing import packed_codes, packed_zero_points, unsigned

_SMALLEST_BLOCK, _LARGEST_BLOCK = 16, 256
_SIGNED = (ir.DataType.INT4, ir.DataType.INT8)
_UNSIGNED = (ir.DataType.UINT4, ir.DataType.UINT8)


@dataclass(frozen=True)
class PackedMatrix:
    """Codes [N, K / block, block * bits / 8], scales [N * K / block] and perhaps zero-points."""

    values: tuple[ir.Value, ...]
    """Initializers: codes, scales, and zero-points [N, ceil(K / block * bits / 8)] if any."""
    k: int
    n: int
    bits: int
    block: int


def packed_matrix(graph: ir.Graph, dequantize: ir.Node) -> PackedMatrix | str:
    """Return the matrix behind a DequantizeLinear, repacked, or why it cannot be.

    Codes are [K, N] with groups along axis 0, or [N, K] with groups along axis 1. A scale is
    repeated for every block of its group, one per channel of N for every block of K, and one for
    all for every block and channel; of these the axis is that of N. A matrix that is asked for
    twice is packed once.
    """
    codes, scales, zero_points = (*dequantize.inputs, None)[:3]
    assert codes is not None, "DequantizeLinear has codes"
    assert scales is not None, "DequantizeLinear has scales"
    group = dequantize.attributes.get_int("block_size", 0)
    axis = dequantize.attributes.get_int("axis", 1)
    rows_are_outputs = axis == (1 if group else 0)  # per channel, the axis is that of the channels
    return packed_codes_of(graph, codes, scales, zero_points, group, rows_are_outputs)


def packed_codes_of(
    graph: ir.Graph,
    codes: ir.Value,
    scales: ir.Value,
    zero_points: ir.Value | None,
    group: int,
    rows_are_outputs: bool,
) -> PackedMatrix | str:
    """Return codes [K, N], or [N, K], in groups along K, repacked; or why they cannot be.

    `group` 0 means one scale per channel, or for all. As `packed_matrix` for the rest.
    """
    if codes.dtype not in (*_SIGNED, *_UNSIGNED) or not codes.is_initializer():
        return "its codes are not stored integers of 4 or 8 bits"
    if not scales.is_initializer():
        return "its scales are integers times a scale per channel"
    assert codes.shape is not None, "initializers have shapes"
    sizes = tuple(int(size) for size in codes.shape.numpy())
    n, k = sizes if rows_are_outputs else reversed(sizes)
    block = _largest_block(group or k)
    if block is None:
        what = f"a group of {group}" if group else f"K = {k}"
        return f"{what} has no divisor between 16 and 256 that is a power of two"
    bits = 4 if codes.dtype in (ir.DataType.INT4, ir.DataType.UINT4) else 8
    names = [f"{v.name}_packed" for v in (codes, scales, zero_points) if v is not None]
    if all(name in graph.initializers for name in names):
        values = [graph.initializers[name] for name in names]
    else:
        values = _promised(codes, scales, zero_points, names, (k, n, bits, block), rows_are_outputs)
        for value in values:
            add_initializer(graph, value)
    return PackedMatrix(tuple(values), k, n, bits, block)


def _largest_block(group: int) -> int | None:
    block = min(group & -group, _LARGEST_BLOCK)  # the largest power of two that divides it
    return block if block >= _SMALLEST_BLOCK else None


def _promised(
    codes: ir.Value,
    scales: ir.Value,
    zero_points: ir.Value | None,
    names: list[str],
    sizes: tuple[int, int, int, int],
    rows_are_outputs: bool,
) -> list[ir.Value]:
    k, n, bits, block = sizes
    groups = k // block

    def inputs_first(value: ir.Value) -> Array:
        """Return [K, N] or [K / block, N], bytes for codes; what blocks share is repeated."""
        assert value.const_value is not None, "codes and scales are initializers"
        array = value.const_value.numpy()
        if array.ndim < 2:
            return np.broadcast_to(array, (groups, n))
        by_inputs = array.T if rows_are_outputs else array
        return by_inputs if value is codes else np.repeat(by_inputs, groups // len(by_inputs), 0)

    def compute() -> tuple[Array, ...]:
        raw = inputs_first(codes)
        signed = codes.dtype in _SIGNED
        code_bytes = unsigned(raw.view(np.int8), bits) if signed else raw.view(np.uint8)
        scale_rows = np.ascontiguousarray(inputs_first(scales).T).reshape(-1)
        parts = (packed_codes(code_bytes, bits, block), scale_rows)
        if zero_points is None:
            return parts
        zeros = inputs_first(zero_points)
        return (*parts, packed_zero_points(zeros.view(np.uint8), bits))

    promised = PromisedParts(compute, len(names))
    byte = ir.DataType.UINT8
    forms = [
        (byte, (n, groups, block * bits // 8)),
        (scales.dtype or ir.DataType.FLOAT, (n * groups,)),
        (byte, (n, -(-groups * bits // 8))),
    ]
    return [
        promised.promise(part, dtype, shape, name)
        for part, (name, (dtype, shape)) in enumerate(zip(names, forms, strict=False))
    ]
