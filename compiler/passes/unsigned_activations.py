"""Write what quantizes activations for x86: unsigned bytes, in as few steps as there are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.initializers import constant
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.quant.arrays import Array
from castline.plugins.quantize_per_tensor.op import (
    QUANTIZE_PER_TENSOR,
    QUANTIZE_PER_TENSOR_ASYMMETRIC,
)
from castline.plugins.quantize_per_token.op import QUANTIZE_PER_TOKEN
from castline.plugins.run_time_grid import SMALLEST_SCALE

_MIDDLE = 128
_ALL_BITS = 8


@dataclass(frozen=True)
class UnsignedActivations:
    """A value as UINT8 codes, 128 above the signed ones."""

    codes: ir.Value
    """uint8 [..., K]."""
    scale: ir.Value
    """float32 [..., 1], or [] where all share one."""
    zero_point: ir.Value
    """uint8 []."""
    per_token: bool


class UnsignedQuantizers:
    """Replaces the quantizers of a graph by unsigned ones, each once for all that read it."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._written: dict[ir.Node, UnsignedActivations] = {}

    def of(self, quantizer: ir.Node) -> UnsignedActivations | str:
        """Return what stands for a node of ours that quantizes, or why nothing does."""
        reason = _declined(quantizer)
        if reason:
            return reason
        if quantizer not in self._written:
            writer = NodeWriter(self._graph, f"{quantizer.name}/unsigned", quantizer)
            self._written[quantizer] = self._write(quantizer, writer)
        return self._written[quantizer]

    def shared(self, name: str, array: Array) -> ir.Value:
        """Return a constant of the whole graph."""
        full_name = f"castline.{name}"
        found = self._graph.initializers.get(full_name)
        return constant(self._graph, full_name, array) if found is None else found

    def _write(self, quantizer: ir.Node, writer: NodeWriter) -> UnsignedActivations:
        x = quantizer.inputs[0]
        assert x is not None, "quantizers have an input"
        if x.dtype != ir.DataType.FLOAT:
            x = writer.add("Cast", [x], {"to": ir.DataType.FLOAT})
        if QUANTIZE_PER_TENSOR_ASYMMETRIC.is_op_of(quantizer):
            codes, scale, zero_point = writer.several("DynamicQuantizeLinear", [x], {}, 3)
            return UnsignedActivations(codes, scale, zero_point, per_token=False)
        per_token = QUANTIZE_PER_TOKEN.is_op_of(quantizer)
        bits = quantizer.attributes.get_int("bits", _ALL_BITS)
        scale = self._scale(x, bits, per_token, writer)
        middle = self.shared("middle", np.array(_MIDDLE, np.uint8))
        if per_token:
            one = self.shared("unit_scale", np.array(1, np.float32))
            in_steps = writer.add("Div", [x, scale])
            codes = writer.add("QuantizeLinear", [in_steps, one, middle])
        else:
            codes = writer.add("QuantizeLinear", [x, scale, middle])
        return UnsignedActivations(codes, scale, middle, per_token)

    def _scale(self, x: ir.Value, bits: int, per_token: bool, writer: NodeWriter) -> ir.Value:
        axes = [self.shared("last_axis", np.array([-1], np.int64))] if per_token else []
        largest = 2 ** (bits - 1) - 1
        ends = [
            writer.add(
                "Div",
                [
                    writer.add(reduce, [x, *axes], {"keepdims": int(per_token)}),
                    self.shared(f"{name}_{bits}_bit_code", np.array(code, np.float32)),
                ],
            )
            for reduce, name, code in (
                ("ReduceMax", "largest", largest),
                ("ReduceMin", "smallest", -largest),
            )
        ]
        smallest = self.shared("smallest_scale", np.array(SMALLEST_SCALE, np.float32))
        return writer.add("Max", [*ends, smallest])


def _declined(quantizer: ir.Node) -> str | None:
    if QUANTIZE_PER_TOKEN.is_op_of(quantizer) or QUANTIZE_PER_TENSOR.is_op_of(quantizer):
        return None
    if not QUANTIZE_PER_TENSOR_ASYMMETRIC.is_op_of(quantizer):
        return "each token has a zero-point, which is taken off the sums in steps of their own"
    bits = quantizer.attributes.get_int("bits", _ALL_BITS)
    return None if bits == _ALL_BITS else f"zero-points of {bits}-bit codes have no operator"
