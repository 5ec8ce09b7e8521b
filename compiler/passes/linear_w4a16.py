"""Multiply by INT4 codes with offsets: what a runtime without zero-points computes them as."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.initializers import add_initializer
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.promised_experts import PromisedExperts, entries
from castline.compiler.passes.promised_matrix import PromisedParts
from castline.compiler.passes.replace import remove_unused, take_over
from castline.compiler.quant.arrays import Array
from castline.plugins.linear_w4a16.op import LINEAR_W4A16
from castline.plugins.op import DOMAIN

_MIDDLE = 8
"""What is taken off a code of 0..15 to have one of -8..7."""


def multiply_with_offsets(
    model: ir.Model, node: ir.Node, parts: Sequence[ir.Value], block: int, writer: NodeWriter
) -> None:
    """Put castline.LinearW4A16 in the place of a MatMul; `parts` are codes, scales, offsets.

    They are [K, N] and [G, N], or stacks of such for experts.
    """
    LINEAR_W4A16.define_in(model)
    inputs = [node.inputs[0], *parts]
    product = writer.add(LINEAR_W4A16.name, inputs, {"block_size": block}, DOMAIN)
    take_over(node.outputs[0], product)
    remove_unused(model.graph, [node])


@dataclass(frozen=True)
class LinearW4A16:
    """MatMuls by UINT4 codes with zero-points become castline.LinearW4A16.

    (q - z) * scale = (q - 8) * scale + (8 - z) * scale: the codes are the same four bits, read as
    signed numbers, and no weight changes.
    """

    def __call__(self, model: ir.Model) -> int:
        """Rewrite `model` in place; return how many MatMuls it was."""
        found = [(node, dequantize) for node in model.graph if (dequantize := _unsigned(node))]
        for node, dequantize in found:
            parts = _Unsigned(dequantize)
            writer = NodeWriter(model.graph, str(node.name), node)
            values = [add_initializer(model.graph, value) for value in parts.signed()]
            multiply_with_offsets(model, node, values, parts.block, writer)
        return len(found)


def _unsigned(node: ir.Node) -> ir.Node | None:
    """Return the DequantizeLinear of UINT4 codes [.., K, N] with zero-points that a MatMul reads.

    None for codes that are [N, K], as those of a table that a head shares.
    """
    matrix = node.inputs[1] if node.op_type == "MatMul" else None
    dequantize = matrix.producer() if matrix is not None else None
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    stored = [value for value in dequantize.inputs if value is not None]
    if len(stored) < 3 or not all(value.is_initializer() for value in stored):
        return None
    along_k = dequantize.attributes.get_int("axis", 1) == _Unsigned(dequantize).rank - 2
    grouped = dequantize.attributes.get_int("block_size", 0) > 0
    return dequantize if stored[0].dtype == ir.DataType.UINT4 and along_k == grouped else None


class _Unsigned:
    """What a DequantizeLinear of codes [K, N], or [E, K, N], with zero-points reads."""

    def __init__(self, dequantize: ir.Node) -> None:
        values = [value for value in dequantize.inputs if value is not None]
        assert values[0].shape is not None, "initializers have shapes"
        self._values = values
        self._shape = tuple(int(size) for size in values[0].shape.numpy())
        self.rank = len(self._shape)
        self.block = dequantize.attributes.get_int("block_size", 0) or self._shape[-2]

    def signed(self) -> list[ir.Value]:
        """Return initializers: INT4 codes, scales [.., G, N] and offsets in their shape."""
        tensors = [value.const_value for value in self._values]
        *experts, k, n = self._shape
        scale_shape = (k // self.block, n)
        forms = self._forms()
        if not experts:

            def matrix() -> tuple[Array, ...]:
                return _recentred([t.numpy() for t in tensors if t is not None], scale_shape)

            parts = PromisedParts(matrix, len(forms))
            return [
                parts.promise(part, dtype, scale_shape if part else (k, n), name)
                for part, (name, dtype) in enumerate(forms)
            ]

        def matrices() -> Iterator[tuple[Array, ...]]:
            for each in zip(*(entries(t) for t in tensors if t is not None), strict=True):
                yield _recentred(each, scale_shape)

        stacks = PromisedExperts(matrices, len(forms))
        return [
            stacks.stack(part, dtype, (*experts, *(scale_shape if part else (k, n))), name)
            for part, (name, dtype) in enumerate(forms)
        ]

    def _forms(self) -> list[tuple[str, ir.DataType]]:
        codes, scales, zero_points = self._values
        offsets = str(zero_points.name).removesuffix("zero_point") + "offset"
        return [
            (f"{codes.name}_signed", ir.DataType.INT4),
            (f"{scales.name}_signed", scales.dtype or ir.DataType.FLOAT),
            (offsets, ir.DataType.FLOAT),  # whatever the scales' type: it holds them all exactly
        ]


def _recentred(parts: Sequence[Array], scale_shape: tuple[int, int]) -> tuple[Array, ...]:
    """Return signed codes, scales and offsets from unsigned codes, scales and zero-points."""
    codes, scales, zero_points = parts
    signed = (codes.view(np.uint8) & np.uint8(15)).astype(np.int8) - np.int8(_MIDDLE)
    from_middle = _MIDDLE - zero_points.astype(np.float32)
    offsets = from_middle * scales.astype(np.float32)
    return signed, *(np.broadcast_to(part, scale_shape) for part in (scales, offsets))
