"""Write what turns a value into codes, once for all that read it in the same way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.initializers import constant
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters
from castline.plugins.op import DOMAIN, PluginOp
from castline.plugins.quantize_per_tensor.op import (
    QUANTIZE_PER_TENSOR,
    QUANTIZE_PER_TENSOR_ASYMMETRIC,
)
from castline.plugins.quantize_per_token.op import (
    QUANTIZE_PER_TOKEN,
    QUANTIZE_PER_TOKEN_ASYMMETRIC,
)

QUANTIZERS = {
    ("per-token", True): QUANTIZE_PER_TOKEN,
    ("per-token", False): QUANTIZE_PER_TOKEN_ASYMMETRIC,
    ("per-tensor", True): QUANTIZE_PER_TENSOR,
    ("per-tensor", False): QUANTIZE_PER_TENSOR_ASYMMETRIC,
}
_STORED_BITS = 8  # QuantizeLinear clips to what int8 holds


@dataclass(frozen=True)
class Codes:
    """A value as codes that were computed at run time."""

    codes: ir.Value
    """int8 [..., K]."""
    scale: ir.Value
    """float32 [..., 1], or [] where all share one."""
    zero_point: ir.Value | None
    """int8, of the shape of `scale`; None on a symmetric grid."""


@dataclass(frozen=True)
class StaticGrid:
    """Scale and zero-point from calibration, and the scheme they are for."""

    scheme: ActivationScheme
    parameters: QuantParameters

    def bounds(self, scale: float) -> tuple[float, float]:
        """Return the least and the largest value that has a code, by a scale as it is stored."""
        low, high = self.scheme.code_range
        zero = self.parameters.zero_point
        return (low - zero) * scale, (high - zero) * scale


class ActivationCodes:
    """Quantizes values of one graph; asked again in the same way, it gives what it gave."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._codes: dict[tuple[ir.Value, ActivationScheme], Codes] = {}
        self._floats: dict[
            tuple[ir.Value, ActivationScheme | StaticGrid, ir.DataType], ir.Value
        ] = {}

    def dynamic(self, x: ir.Value, scheme: ActivationScheme, writer: NodeWriter) -> Codes:
        """Return `x` as codes by the range that it has at run time."""
        if (x, scheme) not in self._codes:
            op = QUANTIZERS[scheme.granularity, scheme.symmetric]
            op.define_in(self._model)
            self._codes[x, scheme] = _typed(op, x, scheme.bits, writer)
        return self._codes[x, scheme]

    def dynamic_in_float(
        self, x: ir.Value, scheme: ActivationScheme, float_type: ir.DataType, writer: NodeWriter
    ) -> ir.Value:
        """Return what the codes of `x` stand for: (codes - zero_point) * scale."""
        key = (x, scheme, float_type)
        if key not in self._floats:
            codes = self.dynamic(x, scheme, writer)
            number = writer.add("Cast", [codes.codes], {"to": ir.DataType.FLOAT})
            if codes.zero_point is not None:
                zero = writer.add("Cast", [codes.zero_point], {"to": ir.DataType.FLOAT})
                number = writer.add("Sub", [number, zero])
            value = writer.add("Mul", [number, codes.scale])
            if float_type != ir.DataType.FLOAT:
                value = writer.add("Cast", [value], {"to": float_type})
            self._floats[key] = _like(x, value, float_type)
        return self._floats[key]

    def static(
        self, x: ir.Value, grid: StaticGrid, float_type: ir.DataType, writer: NodeWriter, name: str
    ) -> ir.Value:
        """Return `x` behind a QuantizeLinear and a DequantizeLinear.

        Scale and zero-point are initializers named after `name`, a linear that reads them.
        """
        key = (x, grid, float_type)
        if key not in self._floats:
            graph, number = self._model.graph, float_type.numpy()
            scale = np.array(grid.parameters.scale, number)
            zero = np.array(grid.parameters.zero_point, np.int8)
            parameters = (
                constant(graph, f"{name}.input_scale", scale),
                constant(graph, f"{name}.input_zero_point", zero),
            )
            clipped = x
            if grid.scheme.bits < _STORED_BITS:
                ends = [
                    constant(graph, f"{name}.input_{end}", np.array(bound, number))
                    for end, bound in zip(("least", "most"), grid.bounds(float(scale)), strict=True)
                ]
                clipped = _like(x, writer.add("Clip", [x, *ends]), float_type)
            codes = writer.add("QuantizeLinear", [clipped, *parameters])
            _like(x, codes, ir.DataType.INT8)
            value = writer.add("DequantizeLinear", [codes, *parameters])
            self._floats[key] = _like(x, value, float_type)
        return self._floats[key]


def _like(x: ir.Value, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Return `value`, said to have the shape of `x`."""
    value.shape, value.type = x.shape, ir.TensorType(dtype)
    return value


def _typed(op: PluginOp, x: ir.Value, bits: int, writer: NodeWriter) -> Codes:
    outputs = writer.several(op.name, [x], {"bits": bits}, len(op.outputs), DOMAIN)
    codes, scale, *zero_points = outputs
    per_token = op in (QUANTIZE_PER_TOKEN, QUANTIZE_PER_TOKEN_ASYMMETRIC)
    shape = ir.Shape([]) if not per_token else None
    if per_token and x.shape is not None:
        shape = ir.Shape([*x.shape[:-1], 1])
    for value in (scale, *zero_points):
        value.shape, value.type = shape, ir.TensorType(ir.DataType.INT8)
    scale.type = ir.TensorType(ir.DataType.FLOAT)
    return Codes(_like(x, codes, ir.DataType.INT8), scale, zero_points[0] if zero_points else None)
