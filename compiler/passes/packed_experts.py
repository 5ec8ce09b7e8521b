"""Repack the codes of experts as QMoE of the com.microsoft domain stores them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.stacked import StackedLinear
from castline.compiler.passes.expert_weights import expert_by_expert, group_of, stacks
from castline.compiler.passes.initializers import add_initializer
from castline.compiler.passes.promised_experts import PromisedExperts
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.packing import packed_codes, packed_zero_points, unsigned

_SMALLEST_BLOCK, _LARGEST_BLOCK = 16, 256
_BITS = {
    ir.DataType.INT4: 4,
    ir.DataType.UINT4: 4,
    ir.DataType.INT8: 8,
    ir.DataType.UINT8: 8,
}
_SIGNED = (ir.DataType.INT4, ir.DataType.INT8)


def code_bits(linear: StackedLinear) -> int | None:
    """Return the bits of a linear's codes; None where it has none of 4 or 8."""
    if linear.dequantize is None:
        return None
    return None if linear.stored.dtype is None else _BITS.get(linear.stored.dtype)


def common_block(*linears: StackedLinear) -> int | None:
    """Return the largest block that divides the groups of all linears; None where none does.

    It is a power of two from 16 to 256, as the kernels are made for. A scale is repeated for every
    block of its group.
    """
    shared = math.gcd(*(group_of(linear) for linear in linears))
    block = min(shared & -shared, _LARGEST_BLOCK)  # the largest power of two that divides it
    return block if block >= _SMALLEST_BLOCK else None


def packed_experts(
    graph: ir.Graph, linear: StackedLinear, block: int, order: Array
) -> list[ir.Value]:
    """Add a linear's codes [E, N, K * bits / 8], scales [E, N, K / block] and zero-points if any.

    `order` [N] says which output channel comes where. Zero-points are [E, N, bytes]. Nothing is
    read before the model is written, and then one expert at a time.
    """
    whole = stacks(linear)
    bits = code_bits(linear)
    assert bits is not None, "packed_experts packs codes"
    groups, repeated = linear.k // block, group_of(linear) // block
    read = expert_by_expert(linear)
    signed = linear.stored.dtype in _SIGNED

    def compute() -> Iterator[tuple[Array, ...]]:
        for codes, *parts in read():
            raw = unsigned(codes.view(np.int8), bits) if signed else codes.view(np.uint8)
            packed = packed_codes(raw[:, order], bits, block).reshape(linear.n, -1)
            scales, *zeros = (np.repeat(part[:, order], repeated, axis=0) for part in parts)
            zero_points = (packed_zero_points(zero.view(np.uint8), bits) for zero in zeros)
            yield packed, np.ascontiguousarray(scales.T), *zero_points

    forms = [
        (ir.DataType.UINT8, linear.k * bits // 8),
        (whole[1].dtype or ir.DataType.FLOAT, groups),
        (ir.DataType.UINT8, -(-groups * bits // 8)),
    ]
    promised = PromisedExperts(compute, len(whole))
    return [
        add_initializer(
            graph,
            promised.stack(part, dtype, (linear.experts, linear.n, width), f"{stack.name}_packed"),
        )
        for part, (stack, (dtype, width)) in enumerate(zip(whole, forms, strict=False))
    ]
