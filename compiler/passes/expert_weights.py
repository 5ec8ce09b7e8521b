"""Take the stacked matrices of experts apart: float ones, or codes with their scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from castline.compiler.graph.stacked import StackedLinear
from castline.compiler.passes.promised_experts import entries
from castline.compiler.quant.arrays import Array


def stacks(linear: StackedLinear) -> tuple[ir.Value, ...]:
    """Return the initializers: [matrices], or codes, scales and zero-points if any."""
    if linear.dequantize is None:
        return (linear.stored,)
    return tuple(value for value in linear.dequantize.inputs if value is not None)


def expert_by_expert(linear: StackedLinear) -> Callable[[], Iterator[tuple[Array, ...]]]:
    """Return what yields each expert's entry of all `stacks`, reading one expert at a time.

    It outlives the linear, whose nodes may leave the graph before anything is read.
    """
    tensors = [value.const_value for value in stacks(linear)]

    def read() -> Iterator[tuple[Array, ...]]:
        yield from zip(*(entries(tensor) for tensor in tensors if tensor is not None), strict=True)

    return read


def group_of(linear: StackedLinear) -> int:
    """Return how many neighbours along K share one scale."""
    assert linear.dequantize is not None, "float matrices have no groups"
    return linear.dequantize.attributes.get_int("block_size", linear.k)
