"""Quantize activations: what a linear reads becomes codes, and products of codes integer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx_ir as ir

from castline.compiler.graph.products import CODES_SUFFIX, Product, products
from castline.compiler.graph.stacked import stacked_linears
from castline.compiler.passes.activation_codes import QUANTIZERS, ActivationCodes, StaticGrid
from castline.compiler.passes.initializers import constant
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.replace import remove_unused, take_over
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters
from castline.plugins.linear_w4a4.op import LINEAR_W4A4, LINEAR_W4A4_ASYMMETRIC
from castline.plugins.linear_w4a8.op import (
    LINEAR_W4A8,
    LINEAR_W4A8_ASYMMETRIC,
    LINEAR_W4A8_GROUPS,
    LINEAR_W4A8_GROUPS_ASYMMETRIC,
)
from castline.plugins.linear_w8a8.op import LINEAR_W8A8, LINEAR_W8A8_ASYMMETRIC
from castline.plugins.op import DOMAIN, PluginOp

_FOUR_BITS = (ir.DataType.INT4, ir.DataType.UINT4)
_OPS = {
    # Bits that the codes of weights and of activations are stored in, whether these are symmetric.
    (8, 8, True): LINEAR_W8A8,
    (8, 8, False): LINEAR_W8A8_ASYMMETRIC,
    (8, 4, True): LINEAR_W8A8,
    (8, 4, False): LINEAR_W8A8_ASYMMETRIC,
    (4, 8, True): LINEAR_W4A8,
    (4, 8, False): LINEAR_W4A8_ASYMMETRIC,
    (4, 4, True): LINEAR_W4A4,
    (4, 4, False): LINEAR_W4A4_ASYMMETRIC,
}
_ARITHMETIC = ("Cast", "Sub", "Mul")  # between codes of a value and the value again
_INPUT = "/input"  # the path of what quantizes it, below that of the first linear that reads it


@dataclass
class QuantizedInputs:
    """What a run of the pass did, for the outcome."""

    names: list[str] = field(default_factory=list)
    """The weights whose linears read codes, or what codes stand for."""

    in_float: dict[str, str] = field(default_factory=dict)
    """Those of them that multiply in float what the codes stand for -> why."""

    left: dict[str, str] = field(default_factory=dict)
    """Weights whose linears read float as before -> why."""

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for every reason."""
        outcomes = {
            "multiplied in float, by what the codes of activations stand for": self.in_float,
            "with float activations": self.left,
        }
        return tuple(
            f"{count} {'linear' if count == 1 else 'linears'} {outcome}: {reason}"
            for outcome, linears in outcomes.items()
            for reason, count in Counter(linears.values()).items()
        )


@dataclass(frozen=True)
class QuantizeActivations:
    """Static scales become QuantizeLinear and DequantizeLinear; dynamic ones become our ops.

    Where the scales are taken at run time, a product with weights that have one scale, or one a
    channel, multiplies integers: it is castline.LinearW8A8 or, where they are stored in 4 bits,
    castline.LinearW4A8, or castline.LinearW4A4 for activations of up to 4 bits; where groups have
    scales of two levels it is castline.LinearW4A8Groups. With weights in other groups, in float, or
    in 8 bits with zero-points it multiplies what the codes stand for.
    """

    linears: Mapping[str, tuple[ActivationScheme, QuantParameters | None]]
    """Name of the weight in the checkpoint -> how what it multiplies is quantized, by which
    parameters where that is static."""

    def __call__(self, model: ir.Model) -> QuantizedInputs:
        """Rewrite `model`, whose weights are quantized already, in place."""
        done = QuantizedInputs()
        shared = ActivationCodes(model)
        for product in products(model):
            if product.name not in self.linears:
                continue
            scheme, parameters = self.linears[product.name]
            reason = _declined(product, parameters)
            if reason:
                done.left[product.name] = reason
                continue
            done.names.append(product.name)
            if parameters is not None:
                _static(product, StaticGrid(scheme, parameters), shared)
                continue
            in_float = _only_in_float(product)
            if in_float:
                done.in_float[product.name] = in_float
                _dynamic_in_float(product, scheme, shared)
            else:
                _integer(model, product, scheme, shared)
        done.left |= self._not_found(model, done)
        return done

    def _not_found(self, model: ir.Model, done: QuantizedInputs) -> dict[str, str]:
        stacks = {stack.name.removesuffix(CODES_SUFFIX) for stack in stacked_linears(model)}
        return {
            name: "its experts are chosen at run time"
            if name in stacks
            else "no product of the graph reads such a weight in float"
            for name in self.linears
            if name not in done.left and name not in done.names
        }


def _declined(product: Product, parameters: QuantParameters | None) -> str | None:
    if _is_quantized(product.node.inputs[0]):
        return "it is quantized already"
    least = float(ml_dtypes.finfo(product.float_type.numpy()).smallest_normal)
    if parameters is not None and parameters.scale < least:
        return f"its scale {parameters.scale:.1g} is too small for {product.float_type.name}"
    return None


def _is_quantized(x: ir.Value | None) -> bool:
    producer = x.producer() if x is not None else None
    if producer is not None and producer.op_type == "DequantizeLinear":
        return True
    while producer is not None and producer.op_type in _ARITHMETIC:
        value = producer.inputs[0]
        producer = value.producer() if value is not None else None
    return any(op.is_op_of(producer) for op in QUANTIZERS.values())


def _only_in_float(product: Product) -> str | None:
    if product.dequantize is None:
        return "its weights are in float"
    codes, _, zero_point = (*product.dequantize.inputs, None)[:3]
    if _levels(product) is not None:
        return None
    if product.dequantize.attributes.get_int("block_size", 0):
        return "its weights have a scale for each group"
    if codes is not None and codes.dtype in _FOUR_BITS:
        return None
    if zero_point is not None or codes is None or codes.dtype != ir.DataType.INT8:
        return "its weights have zero-points"
    return None


def _levels(product: Product) -> ir.Node | None:
    """Return the DequantizeLinear of the integer scales of groups; None where there are none."""
    assert product.dequantize is not None, "checked by the caller"
    scales = product.dequantize.inputs[1]
    return scales.producer() if scales is not None else None


def _writer(product: Product, part: str = "") -> NodeWriter:
    graph, path = product.node.graph, str(product.node.name).rpartition("/")[0]
    assert isinstance(graph, ir.Graph), "linears are nodes of the graph"
    return NodeWriter(graph, f"{path}{part}", product.node)


def _static(product: Product, grid: StaticGrid, shared: ActivationCodes) -> None:
    name = product.name.removesuffix(".weight")
    writer = _writer(product, _INPUT)
    value = shared.static(_input(product), grid, product.float_type, writer, name)
    product.node.replace_input_with(0, value)


def _dynamic_in_float(product: Product, scheme: ActivationScheme, shared: ActivationCodes) -> None:
    value = shared.dynamic_in_float(
        _input(product), scheme, product.float_type, _writer(product, _INPUT)
    )
    product.node.replace_input_with(0, value)


def _integer(
    model: ir.Model, product: Product, scheme: ActivationScheme, shared: ActivationCodes
) -> None:
    codes = shared.dynamic(_input(product), scheme, _writer(product, _INPUT))
    op = _op(product, scheme)
    op.define_in(model)
    zero_point = () if codes.zero_point is None else (codes.zero_point,)
    inputs = [codes.codes, codes.scale, *zero_point, *_weights(model.graph, product)]
    output = _writer(product).add(op.name, inputs, _attributes(product, op), domain=DOMAIN)
    take_over(product.node.outputs[0], output)
    remove_unused(model.graph, [product.node])


def _attributes(product: Product, op: PluginOp) -> dict[str, int]:
    """Return those of the product's DequantizeLinear that `op` has, too."""
    assert product.dequantize is not None, "checked by the caller"
    return {name: product.dequantize.attributes.get_int(name, 0) for name in op.attributes}


def _op(product: Product, scheme: ActivationScheme) -> PluginOp:
    assert product.dequantize is not None, "checked by the caller"
    if _levels(product) is not None:
        return LINEAR_W4A8_GROUPS if scheme.symmetric else LINEAR_W4A8_GROUPS_ASYMMETRIC
    codes = product.dequantize.inputs[0]
    assert codes is not None, "DequantizeLinear has codes"
    weight_bits = 4 if codes.dtype in _FOUR_BITS else 8
    return _OPS[weight_bits, 4 if scheme.bits <= 4 else 8, scheme.symmetric]


def _weights(graph: ir.Graph, product: Product) -> tuple[ir.Value, ...]:
    """Return codes and scale and, of codes of 4 bits, zero-points; of two levels, both scales."""
    assert product.dequantize is not None, "checked by the caller"
    levels = _levels(product)
    if levels is not None:
        return tuple(v for v in (product.dequantize.inputs[0], *levels.inputs) if v is not None)
    codes, scale, *zero_points = (v for v in product.dequantize.inputs if v is not None)
    if codes.dtype not in _FOUR_BITS or zero_points:
        return codes, scale, *zero_points
    assert codes.dtype is not None, "compared above"
    assert scale.shape is not None, "initializers have shapes"
    zeros = np.zeros(scale.shape.numpy(), codes.dtype.numpy())
    return codes, scale, constant(graph, f"{product.name}_zero_point", zeros)


def _input(product: Product) -> ir.Value:
    value = product.node.inputs[0]
    assert value is not None, "MatMul has two inputs"
    return value
