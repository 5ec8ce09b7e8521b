"""Write what quantizes activations for x86: unsigned bytes, in as few steps as there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.initializers import shared_constant
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.quant.arrays import Array
from castline.plugins.quantize_per_tensor.op import (
    QUANTIZE_PER_TENSOR,
    QUANTIZE_PER_TENSOR_ASYMMETRIC,
)
from castline.plugins.quantize_per_token.op import QUANTIZE_PER_TOKEN, QUANTIZE_PER_TOKEN_ASYMMETRIC
from castline.plugins.run_time_grid import SMALLEST_SCALE

_MIDDLE = 128
_ALL_BITS = 8


@dataclass(frozen=True)
class UnsignedActivations:
    """A value as UINT8 codes, its steps from zero above the zero-point.

    Codes of fewer than 8 bits less their own zero-points, -2^bits to 2^bits, fit around 128: then
    no zero-point is left for a product to take off. Those of 8 bits are 128 above the op's.
    """

    codes: ir.Value
    """uint8 [..., K]."""
    scale: ir.Value
    """float32 [..., 1], or [] where all share one."""
    zero_point: ir.Value
    """uint8 []."""
    per_token: bool
    token_zero_point: ir.Value | None = None
    """float32 [..., 1], above `zero_point`; None where that is all there is."""


@dataclass(frozen=True)
class _Grid:
    """A grid with zero-points, before anything is rounded to it."""

    scale: ir.Value
    zero_point: ir.Value
    """float32 in the shape of the scale, a code of two's complement."""


class UnsignedQuantizers:
    """Replaces the quantizers of a graph by unsigned ones, each once for all that read it."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._written: dict[ir.Node, UnsignedActivations] = {}

    def of(self, quantizer: ir.Node) -> UnsignedActivations:
        """Return what stands for a node of ours that quantizes."""
        if quantizer not in self._written:
            writer = NodeWriter(self._graph, f"{quantizer.name}/unsigned", quantizer)
            self._written[quantizer] = self._write(quantizer, writer)
        return self._written[quantizer]

    def shared(self, name: str, array: Array) -> ir.Value:
        """Return a constant of the whole graph."""
        return shared_constant(self._graph, name, array)

    def _write(self, quantizer: ir.Node, writer: NodeWriter) -> UnsignedActivations:
        x = quantizer.inputs[0]
        assert x is not None, "quantizers have an input"
        if x.dtype != ir.DataType.FLOAT:
            x = writer.add("Cast", [x], {"to": ir.DataType.FLOAT})
        bits = quantizer.attributes.get_int("bits", _ALL_BITS)
        per_token = QUANTIZE_PER_TOKEN.is_op_of(quantizer)
        if per_token or QUANTIZE_PER_TENSOR.is_op_of(quantizer):
            return self._symmetric(x, bits, per_token, writer)
        per_token = QUANTIZE_PER_TOKEN_ASYMMETRIC.is_op_of(quantizer)
        assert per_token or QUANTIZE_PER_TENSOR_ASYMMETRIC.is_op_of(quantizer), "one of ours"
        if bits < _ALL_BITS:
            return self._steps(x, bits, per_token, writer)
        if per_token:
            return self._codes_by_token(x, writer)
        codes, scale, zero_point = writer.several("DynamicQuantizeLinear", [x], {}, 3)
        return UnsignedActivations(codes, scale, zero_point, per_token=False)

    def _symmetric(
        self, x: ir.Value, bits: int, per_token: bool, writer: NodeWriter
    ) -> UnsignedActivations:
        largest = 2 ** (bits - 1) - 1
        above, below = self._ends(x, per_token, writer)
        ends = [
            writer.add("Div", [above, self._number(f"largest_{bits}_bit_code", largest)]),
            writer.add("Div", [below, self._number(f"smallest_{bits}_bit_code", -largest)]),
        ]
        scale = writer.add("Max", [*ends, self._smallest_scale()])
        if not per_token:
            codes = writer.add("QuantizeLinear", [x, scale, self._middle()])
            return UnsignedActivations(codes, scale, self._middle(), per_token)
        in_steps = writer.add("Div", [x, scale])
        return UnsignedActivations(
            self._rounded(in_steps, writer), scale, self._middle(), per_token
        )

    def _steps(
        self, x: ir.Value, bits: int, per_token: bool, writer: NodeWriter
    ) -> UnsignedActivations:
        """Round to steps from zero, which end where the codes would.

        Ends are integers, so it is one whether they cut before rounding or after.
        """
        grid = self._grid(x, bits, per_token, writer)
        low, high = self._code_range(bits)
        most = writer.add("Sub", [high, grid.zero_point])
        least = writer.add("Sub", [low, grid.zero_point])
        in_steps = writer.add("Div", [x, grid.scale])
        below = writer.add("Min", [in_steps, most])
        within = writer.add("Max", [below, least])
        return UnsignedActivations(
            self._rounded(within, writer), grid.scale, self._middle(), per_token
        )

    def _codes_by_token(self, x: ir.Value, writer: NodeWriter) -> UnsignedActivations:
        """Round and add zero-points in that order, as the op does: halves go to even steps.

        QuantizeLinear could do both to rows of a matrix, but only between nodes that reshape, and
        a single token waits for nodes more than for what they do.
        """
        grid = self._grid(x, _ALL_BITS, True, writer)
        rounded = writer.add("Round", [writer.add("Div", [x, grid.scale])])
        codes = self._rounded(writer.add("Add", [rounded, grid.zero_point]), writer)
        return UnsignedActivations(codes, grid.scale, self._middle(), True, grid.zero_point)

    def _grid(self, x: ir.Value, bits: int, per_token: bool, writer: NodeWriter) -> _Grid:
        """Lay the grid that the ops lay, which holds 0.

        They also keep zero-points among the codes, which those of finite values always are.
        """
        zero = self._number("zero", 0)
        above, below = self._ends(x, per_token, writer)
        least = writer.add("Min", [below, zero])
        spread = writer.add("Sub", [writer.add("Max", [above, zero]), least])
        step = writer.add("Div", [spread, self._number(f"{bits}_bit_steps", 2**bits - 1)])
        scale = writer.add("Max", [step, self._smallest_scale()])
        low, _ = self._code_range(bits)
        unrounded = writer.add("Sub", [low, writer.add("Div", [least, scale])])
        return _Grid(scale, writer.add("Round", [unrounded]))

    def _ends(self, x: ir.Value, per_token: bool, writer: NodeWriter) -> Sequence[ir.Value]:
        axes = [self.shared("last_axis", np.array([-1], np.int64))] if per_token else []
        return [
            writer.add(reduce, [x, *axes], {"keepdims": int(per_token)})
            for reduce in ("ReduceMax", "ReduceMin")
        ]

    def _rounded(self, in_steps: ir.Value, writer: NodeWriter) -> ir.Value:
        one = self._number("unit_scale", 1)
        return writer.add("QuantizeLinear", [in_steps, one, self._middle()])

    def _code_range(self, bits: int) -> tuple[ir.Value, ir.Value]:
        codes = 2 ** (bits - 1)
        return (
            self._number(f"lowest_{bits}_bit_code", -codes),
            self._number(f"largest_{bits}_bit_code", codes - 1),
        )

    def _number(self, name: str, number: float) -> ir.Value:
        return self.shared(name, np.array(number, np.float32))

    def _smallest_scale(self) -> ir.Value:
        return self._number("smallest_scale", float(SMALLEST_SCALE))

    def _middle(self) -> ir.Value:
        return self.shared("middle", np.array(_MIDDLE, np.uint8))
