"""Quantize activations: what a linear reads becomes codes, and products of codes integer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_dtypes
import onnx_ir as ir

from castline.compiler.graph.products import CODES_SUFFIX, Product, products
from castline.compiler.graph.stacked import stacked_linears
from castline.compiler.passes.activation_codes import QUANTIZERS, ActivationCodes, StaticGrid
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.replace import remove_unused, take_over
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters
from castline.plugins.linear_w8a8.op import LINEAR_W8A8, LINEAR_W8A8_ASYMMETRIC
from castline.plugins.op import DOMAIN

_SIGNED = (ir.DataType.INT4, ir.DataType.INT8)
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
    channel, is castline.LinearW8A8, which multiplies integers. With weights in groups, with
    zero-points or in float it multiplies what the codes stand for.
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
    if product.dequantize.attributes.get_int("block_size", 0):
        return "its weights have a scale for each group"
    if zero_point is not None or codes is None or codes.dtype not in _SIGNED:
        return "its weights have zero-points"
    return None


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
    assert product.dequantize is not None, "checked by the caller"
    weight_codes, weight_scale = product.dequantize.inputs[:2]
    assert weight_codes is not None, "DequantizeLinear has codes"
    writer = _writer(product)
    if weight_codes.dtype != ir.DataType.INT8:
        shape = weight_codes.shape
        weight_codes = writer.add("Cast", [weight_codes], {"to": ir.DataType.INT8})
        weight_codes.shape, weight_codes.type = shape, ir.TensorType(ir.DataType.INT8)
    op = LINEAR_W8A8 if codes.zero_point is None else LINEAR_W8A8_ASYMMETRIC
    op.define_in(model)
    zero_point = () if codes.zero_point is None else (codes.zero_point,)
    inputs = [codes.codes, codes.scale, *zero_point, weight_codes, weight_scale]
    take_over(product.node.outputs[0], writer.add(op.name, inputs, domain=DOMAIN))
    remove_unused(model.graph, [product.node])


def _input(product: Product) -> ir.Value:
    value = product.node.inputs[0]
    assert value is not None, "MatMul has two inputs"
    return value
