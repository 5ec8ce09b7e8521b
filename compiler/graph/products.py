"""Find what multiplies by a stored matrix, be it in float or in codes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from castline.compiler.graph.linears import linears

CODES_SUFFIX = "_quantized"
"""What the codes of a weight are called after it."""


@dataclass(frozen=True)
class Product:
    """A MatMul of activations [..., K] with a matrix [K, N] of the checkpoint."""

    node: ir.Node
    name: str
    """Name of the weight in the checkpoint."""
    dequantize: ir.Node | None
    """The DequantizeLinear of [K, N] codes that it multiplies by; None where they are float."""

    @property
    def float_type(self) -> ir.DataType:
        """The type that it computes in."""
        weight = self.node.inputs[1]
        assert weight is not None, "MatMul has two inputs"
        assert weight.dtype is not None, "weights and what dequantizes them are typed"
        return weight.dtype


def products(model: ir.Model) -> tuple[Product, ...]:
    """Return every product of the graph with one matrix, in graph order; the head's is one."""
    in_float = {linear.node: linear.name for linear in linears(model)}
    found = []
    for node in model.graph:
        if node in in_float:
            found.append(Product(node, in_float[node], None))
            continue
        dequantize = _dequantize(node)
        if dequantize is not None and dequantize.inputs[0] is not None:
            name = str(dequantize.inputs[0].name).removesuffix(CODES_SUFFIX)
            found.append(Product(node, name, dequantize))
    return tuple(found)


def _dequantize(node: ir.Node) -> ir.Node | None:
    weight = node.inputs[1] if node.op_type == "MatMul" else None
    producer = weight.producer() if weight is not None else None
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    codes = producer.inputs[0]
    if codes is None or not codes.is_initializer() or codes.shape is None:
        return None
    return producer if len(codes.shape) == 2 else None
