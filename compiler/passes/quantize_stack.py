"""Quantize a stack of experts' matrices, each as it would be alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.stacked import StackedLinear
from castline.compiler.passes.initializers import add_initializer
from castline.compiler.passes.promised_experts import PromisedExperts, entries
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.round_to_nearest import quantize
from castline.compiler.quant.scheme import WeightScheme


def quantize_stack(
    graph: ir.Graph, linear: StackedLinear, scheme: WeightScheme, code_type: ir.DataType
) -> None:
    """Put codes [E, K, N] behind a DequantizeLinear in the place of a stack of matrices.

    The groups lie along K, axis 1; one scale per channel is a group of all K, since a vector of
    scales cannot be told from expert to expert. Per tensor means a scale for each expert, which is
    a matrix of its own; it is repeated for every channel. Nothing is read before the model is
    written, and then one expert at a time.
    """
    weight = linear.stored
    parts = _promised(linear, scheme, code_type)
    for part in parts:
        add_initializer(graph, part)
    attributes = {"axis": 1, "block_size": _block(linear, scheme)}
    path = str(linear.node.name)
    node = ir.node("DequantizeLinear", parts, attributes, name=f"{path}/DequantizeLinear")
    dequantized = node.outputs[0]
    dequantized.name = f"{node.name}_output_0"
    dequantized.shape = weight.shape
    dequantized.type = ir.TensorType(weight.dtype or ir.DataType.FLOAT)
    graph.insert_before(linear.node, node)
    linear.node.replace_input_with(1, dequantized)
    if not weight.consumers():
        graph.initializers.pop(str(weight.name))


def _block(linear: StackedLinear, scheme: WeightScheme) -> int:
    """Return how many neighbours along K share a scale."""
    group = scheme.group_for(linear.k)
    return group if isinstance(group, int) else linear.k


def _promised(
    linear: StackedLinear, scheme: WeightScheme, code_type: ir.DataType
) -> list[ir.Value]:
    tensor = linear.stored.const_value
    assert tensor is not None, "initializers have tensors"
    float_type = linear.stored.dtype or ir.DataType.FLOAT
    scale_shape = (linear.k // _block(linear, scheme), linear.n)

    def compute() -> Iterator[tuple[Array, ...]]:
        for weights in entries(tensor):
            matrix = quantize(weights, scheme, float_type.numpy())
            scales = [part for part in (matrix.scales, matrix.zero_points) if part is not None]
            yield matrix.codes, *(np.broadcast_to(part, scale_shape) for part in scales)

    shape = (linear.experts, linear.k, linear.n)
    forms = [
        (code_type, shape, "quantized"),
        (float_type, (linear.experts, *scale_shape), "scale"),
        (code_type, (linear.experts, *scale_shape), "zero_point"),
    ][: 2 if scheme.symmetric else 3]
    promised = PromisedExperts(compute, len(forms))
    return [
        promised.stack(part, dtype, form, f"{linear.name}_{suffix}")
        for part, (dtype, form, suffix) in enumerate(forms)
    ]
