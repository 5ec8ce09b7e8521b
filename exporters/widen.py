"""Compute in float32 what a model's code computes in bfloat16, and round as it does."""

from __future__ import annotations

import onnx_ir as ir

_ARITHMETIC = ("Add", "Div", "Exp", "Mul", "Neg", "Pow", "Sub")


def widen_bfloat16(graph: ir.Graph) -> None:
    """Put casts around the arithmetic that a graph does in bfloat16, in place.

    Falcon multiplies its ALiBi slopes in bfloat16 whatever the model's type is. No CPU runtime has
    such kernels; rounding a float32 product of two bfloat16 numbers gives the same bits.
    """
    for node in list(graph):
        if node.op_type not in _ARITHMETIC or node.outputs[0].dtype != ir.DataType.BFLOAT16:
            continue
        for position, value in enumerate(node.inputs):
            if value is not None:
                node.replace_input_with(position, _cast(graph, node, value, ir.DataType.FLOAT))
        made = node.outputs[0]
        made.dtype = ir.DataType.FLOAT
        readers = list(made.uses())
        rounded = ir.node("Cast", [made], {"to": ir.DataType.BFLOAT16})
        graph.insert_after(node, rounded)
        _like(rounded.outputs[0], made, ir.DataType.BFLOAT16)
        for reader, position in readers:
            reader.replace_input_with(position, rounded.outputs[0])


def _cast(graph: ir.Graph, user: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    node = ir.node("Cast", [value], {"to": dtype})
    graph.insert_before(user, node)
    _like(node.outputs[0], value, dtype)
    return node.outputs[0]


def _like(value: ir.Value, other: ir.Value, dtype: ir.DataType) -> None:
    value.shape, value.type = other.shape, ir.TensorType(dtype)
