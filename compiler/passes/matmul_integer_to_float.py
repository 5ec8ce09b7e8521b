"""Lower products of codes to MatMulIntegerToFloat, which multiplies bytes and scales the sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.products import Product, products
from castline.compiler.passes.contrib import DOMAIN, import_contrib
from castline.compiler.passes.linear_bias import bias_after
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.replace import remove_unused, take_over
from castline.compiler.passes.unsigned_activations import UnsignedActivations, UnsignedQuantizers
from castline.plugins.catalogue import INTEGER_LINEARS
from castline.plugins.op import PluginOp

_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)


@dataclass(frozen=True)
class MatMulIntegerToFloat:
    """One node a linear; where each token has a scale of its own, a Mul after it.

    It stands for castline.LinearW8A8, LinearW4A8, LinearW4A8Groups and LinearW4A4, and for a MatMul
    of two DequantizeLinears whose weights have one scale, or one a channel. Codes of activations
    are unsigned: x86 multiplies unsigned by signed bytes, and takes ten times longer otherwise.
    Weights of 4 bits stay so in the file, behind a Cast: ONNX Runtime computes it when it loads
    them, and keeps the bytes alone. The sums are exact either way.

    Where tokens have zero-points of 8 bits, their part is taken off the scaled sums, in float32:
    2^-23 of 128 |column sum|, at most sqrt(K) of the weights' norm, is lost. Rounding activations
    to codes loses 0.3 of that norm, 100 times as much up to K = 30000.
    """

    ops: tuple[PluginOp, ...] = INTEGER_LINEARS
    """Those of ours that it lowers; others are left as they are."""

    def __call__(self, model: ir.Model) -> None:
        """Rewrite `model` in place."""
        quantizers = UnsignedQuantizers(model.graph)
        for node in list(model.graph):
            op = next((op for op in self.ops if op.is_op_of(node)), None)
            if op is not None:
                _dynamic(model.graph, node, op, quantizers)
                import_contrib(model)
        for product in products(model):
            quantize = _static_quantizer(product)
            if quantize is not None:
                _static(model.graph, product, quantize)
                import_contrib(model)


def _dynamic(graph: ir.Graph, node: ir.Node, op: PluginOp, quantizers: UnsignedQuantizers) -> None:
    read = {name: v for name, v in zip(op.inputs, node.inputs, strict=True) if v is not None}
    quantizer = read["codes"].producer()
    assert quantizer is not None, "QuantizeActivations quantizes what these ops read"
    x = quantizers.of(quantizer)
    writer = NodeWriter(graph, str(node.name), node)
    weights = _Weights.read_by(read, writer)
    unit = quantizers.shared("unit_scale", np.array(1, np.float32))
    value = weights.times(x, unit if x.per_token else x.scale, writer)
    if x.token_zero_point is not None:
        of_one = weights.of_one(quantizers, writer)
        value = writer.add("Sub", [value, writer.add("Mul", [x.token_zero_point, of_one])])
    if x.per_token:
        value = writer.add("Mul", [value, x.scale])
    float_type = read["weight_scale"].dtype
    if float_type != ir.DataType.FLOAT:
        value = writer.add("Cast", [value], {"to": float_type or ir.DataType.FLOAT})
    take_over(node.outputs[0], value)
    remove_unused(graph, [node])


@dataclass(frozen=True)
class _Weights:
    """What stands for weights in MatMulIntegerToFloat."""

    steps: ir.Value
    """int8 [K, N]."""
    scale: ir.Value
    """float32 [N] or []."""

    @classmethod
    def read_by(cls, read: Mapping[str, ir.Value], writer: NodeWriter) -> _Weights:
        """Return what a node of ours reads; codes of 4 bits less their zero-points fit in INT8.

        ONNX Runtime computes that when it loads them, and multiplies faster without zero-points.
        """
        codes, scale = read["weight_codes"], _wide(read["weight_scale"], writer)
        if "group_scale" in read:
            return cls(_of_groups(codes, read["group_scale"], writer), scale)
        if "weight_zero_point" not in read:
            return cls(codes, scale)
        numbers = [
            writer.add("Cast", [value], {"to": ir.DataType.INT32})
            for value in (codes, read["weight_zero_point"])
        ]
        steps = writer.add("Cast", [writer.add("Sub", numbers)], {"to": ir.DataType.INT8})
        steps.shape, steps.type = codes.shape, ir.TensorType(ir.DataType.INT8)
        return cls(steps, scale)

    def times(self, x: UnsignedActivations, scale: ir.Value, writer: NodeWriter) -> ir.Value:
        """Return the product, float32 [..., N], of codes that have all the same scale."""
        factors = [x.codes, self.steps, scale, self.scale, x.zero_point]
        return writer.add("MatMulIntegerToFloat", factors, domain=DOMAIN)

    def of_one(self, quantizers: UnsignedQuantizers, writer: NodeWriter) -> ir.Value:
        """Return what a token gives that is 1 in every channel, float32 [N].

        In operators that ONNX Runtime computes when it loads constants: its own it does not.
        """
        assert self.steps.shape is not None, "codes have shapes"
        k = int(self.steps.shape.numpy()[0])
        ones = quantizers.shared(f"ones_{k}", np.ones(k, np.uint8))
        sums = writer.add("MatMulInteger", [ones, self.steps])
        wide = writer.add("Cast", [sums], {"to": ir.DataType.FLOAT})
        return writer.add("Mul", [wide, self.scale])


def _of_groups(codes: ir.Value, group_scale: ir.Value, writer: NodeWriter) -> ir.Value:
    """Return codes [K, N] times the integer scales [G, N] of their groups, int8."""
    assert codes.shape is not None, "initializers have shapes"
    assert group_scale.shape is not None, "initializers have shapes"
    (k, n), groups = codes.shape.numpy(), group_scale.shape.numpy()[0]
    # Not in INT8, in which ONNX Runtime does not multiply.
    numbers = [
        writer.add("Cast", [value], {"to": ir.DataType.INT32}) for value in (codes, group_scale)
    ]
    grouped = writer.add(
        "Reshape", [numbers[0], writer.constant("groups", (groups, k // groups, n))]
    )
    of_groups = writer.add("Reshape", [numbers[1], writer.constant("group", (groups, 1, n))])
    products = writer.add("Mul", [grouped, of_groups])
    matrix = writer.add("Reshape", [products, writer.constant("matrix", (k, n))])
    steps = writer.add("Cast", [matrix], {"to": ir.DataType.INT8})
    steps.shape, steps.type = codes.shape, ir.TensorType(ir.DataType.INT8)
    return steps


def _static_quantizer(product: Product) -> ir.Node | None:
    """Return the QuantizeLinear of what a product of codes by codes reads; None for another."""
    dequantize, value = product.dequantize, product.node.inputs[0]
    if dequantize is None:
        return None
    grouped = dequantize.attributes.get_int("block_size", 0) > 0
    codes = None if grouped else dequantize.inputs[0]
    if codes is None or codes.dtype not in _BYTES:
        return None
    for op_type in ("DequantizeLinear", "QuantizeLinear"):
        producer = value.producer() if value is not None else None
        if producer is None or producer.op_type != op_type:
            return None
        value = producer.inputs[0]
    return producer


def _static(graph: ir.Graph, product: Product, quantize: ir.Node) -> None:
    assert product.dequantize is not None, "checked by the caller"
    weight_codes, weight_scale, *weight_zeros = product.dequantize.inputs
    scale, zero_point = quantize.inputs[1:3]
    assert weight_codes is not None, "DequantizeLinear has codes"
    assert weight_codes.shape is not None, "initializers have shapes"
    assert weight_scale is not None, "DequantizeLinear has scales"
    assert scale is not None, "QuantizeLinear has a scale"
    wide = product.float_type == ir.DataType.FLOAT
    n = int(weight_codes.shape.numpy()[1])
    bias, last = bias_after(product.node, n) if wide else (None, product.node)
    writer = NodeWriter(graph, str(product.node.name), last)
    value = writer.add(
        "MatMulIntegerToFloat",
        [
            quantize.outputs[0],
            weight_codes,
            _wide(scale, writer),
            _wide(weight_scale, writer),
            zero_point,
            *(weight_zeros or [None]),
            bias,
        ],
        domain=DOMAIN,
    )
    if not wide:
        value = writer.add("Cast", [value], {"to": product.float_type})
    take_over(last.outputs[0], value)
    remove_unused(graph, [last])


def _wide(scale: ir.Value, writer: NodeWriter) -> ir.Value:
    """Return a scale in float32, which is what the CPU kernel takes."""
    if scale.dtype == ir.DataType.FLOAT:
        return scale
    return writer.add("Cast", [scale], {"to": ir.DataType.FLOAT})
