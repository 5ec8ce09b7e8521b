"""Quantize activations to E4M3 by static scales: QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from castline.compiler.graph.products import products
from castline.compiler.passes.initializers import constant
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.quant.arrays import Array

FLOAT8_ZERO = "input_float8_zero"
"""How the name of a zero-point ends, which says nothing but the type of the codes."""


@dataclass(frozen=True)
class QuantizeActivationsFloat8:
    """What several linears read and quantize by one scale is quantized once.

    E4M3 without infinities: what is beyond 448 scales is clipped there.
    """

    linears: Mapping[str, float]
    """Name of the weight in the checkpoint -> the scale of what it multiplies."""

    def __call__(self, model: ir.Model) -> tuple[str, ...]:
        """Rewrite `model`, whose weights are quantized already, in place.

        Returns the names for which the graph has no product.
        """
        written: dict[tuple[ir.Value, float], ir.Value] = {}
        found = [product for product in products(model) if product.name in self.linears]
        for product in found:
            x, scale = product.node.inputs[0], self.linears[product.name]
            assert x is not None, "MatMul has two inputs"
            if (x, scale) not in written:
                path = str(product.node.name).rpartition("/")[0]
                writer = NodeWriter(model.graph, f"{path}/input", product.node)
                number = np.array(scale, product.float_type.numpy())
                linear = product.name.removesuffix(".weight")
                written[x, scale] = _written(model.graph, x, number, writer, linear)
            product.node.replace_input_with(0, written[x, scale])
        names = {product.name for product in found}
        return tuple(name for name in self.linears if name not in names)


def _written(
    graph: ir.Graph, x: ir.Value, scale: Array, writer: NodeWriter, linear: str
) -> ir.Value:
    parameters = [
        constant(graph, f"{linear}.input_scale", scale),
        constant(graph, f"{linear}.{FLOAT8_ZERO}", np.zeros((), ml_dtypes.float8_e4m3fn)),
    ]
    codes = writer.add("QuantizeLinear", [x, *parameters])
    codes.shape, codes.type = x.shape, ir.TensorType(ir.DataType.FLOAT8E4M3FN)
    value = writer.add("DequantizeLinear", [codes, *parameters])
    value.shape, value.type = x.shape, ir.TensorType(ir.DataType.from_numpy(scale.dtype))
    return value
