"""Quantize a stack of experts' matrices, each as it would be alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.stacked import StackedLinear
from castline.compiler.passes.initializers import add_initializer
from castline.compiler.passes.linear_w4a16 import multiply_with_offsets
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.promised_experts import PromisedExperts, entries
from castline.compiler.passes.weight_codes import block_of, forms, parts_of
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import QuantizedMatrix, quantize
from castline.compiler.quant.scheme import WeightScheme


def rounded_experts(linear: StackedLinear, scheme: WeightScheme) -> GivenCodes:
    """Return the nearest codes of each matrix, computed one expert at a time."""
    tensor = linear.stored.const_value
    assert tensor is not None, "initializers have tensors"
    scale_type = tensor.dtype.numpy()

    def matrices() -> Iterator[QuantizedMatrix]:
        return (quantize(weights, scheme, scale_type) for weights in entries(tensor))

    return GivenCodes(scheme, matrices)


def quantize_stack(model: ir.Model, linear: StackedLinear, codes: GivenCodes) -> None:
    """Put codes [E, K, N] behind a DequantizeLinear in the place of a stack of matrices.

    The groups lie along K, axis 1; one scale per channel is a group of all K, since a vector of
    scales cannot be told from expert to expert. Per tensor means a scale for each expert, which is
    a matrix of its own; it is repeated for every channel. Nothing is read before the model is
    written, and then one expert at a time.
    """
    graph, weight = model.graph, linear.stored
    parts = _promised(linear, codes)
    for part in parts:
        add_initializer(graph, part)
    block = block_of(codes.scheme.group_for(linear.k), linear.k)
    writer = NodeWriter(graph, str(linear.node.name), linear.node)
    if codes.has_offsets:
        multiply_with_offsets(model, linear.node, parts, block, writer)
    else:
        matrices = writer.add("DequantizeLinear", parts, {"axis": 1, "block_size": block})
        matrices.shape = weight.shape
        matrices.type = ir.TensorType(weight.dtype or ir.DataType.FLOAT)
        linear.node.replace_input_with(1, matrices)
    if not weight.consumers() and weight.name in graph.initializers:
        graph.initializers.pop(str(weight.name))


def _promised(linear: StackedLinear, given: GivenCodes) -> list[ir.Value]:
    float_type = linear.stored.dtype or ir.DataType.FLOAT
    block = block_of(given.scheme.group_for(linear.k), linear.k)
    scale_shape = (linear.k // block, linear.n)

    wanted = forms(given, float_type)

    def compute() -> Iterator[tuple[Array, ...]]:
        for matrix in given.matrices():
            codes, *rest = parts_of(matrix, wanted)
            yield codes, *(np.broadcast_to(part, scale_shape) for part in rest)

    promised = PromisedExperts(compute, len(wanted))
    return [
        promised.stack(
            part,
            form.dtype,
            (linear.experts, *(scale_shape if part else (linear.k, linear.n))),
            f"{linear.name}_{form.suffix}",
        )
        for part, form in enumerate(wanted)
    ]
