"""Put something before linears, once for all that read one value in the same way."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeAlias, TypeVar

import onnx_ir as ir

from castline.compiler.graph.linears import linears
from castline.compiler.graph.stacked import stacked_linears
from castline.compiler.passes.node_writer import NodeWriter

ChangeT = TypeVar("ChangeT")
Write: TypeAlias = Callable[[NodeWriter, ir.Value, str, ir.DataType, ChangeT], ir.Value]
"""Writes what a change makes of a value, in the type that is told; the name is that of the first
linear that reads it."""


def change_inputs(
    model: ir.Model,
    changes: Mapping[str, ChangeT],
    content: Callable[[ChangeT], Hashable],
    path: str,
    write: Write[ChangeT],
) -> tuple[str, ...]:
    """Let linears and stacks of them read what `write` makes of their inputs, in place.

    `changes` are by the names of weights, which are in float; changes of equal `content` do the
    same. New nodes stand at `path` below the first node that reads them. What is written has the
    shape of the value and the type of the weight. Returns the names that the graph has no linear
    for.
    """
    written: dict[tuple[ir.Value, Hashable], ir.Value] = {}
    single = ((linear.name, linear.node) for linear in linears(model))
    stacks = ((stack.name, stack.node) for stack in stacked_linears(model))
    found = [(name, node) for name, node in (*single, *stacks) if name in changes]
    for name, node in found:
        change, (x, weight) = changes[name], node.inputs[:2]
        assert x is not None, "MatMul has two inputs"
        assert weight is not None, "MatMul has two inputs"
        key = (x, content(change))
        if key not in written:
            # Below the node's own name: products of experts stand beside one another on one path.
            writer = NodeWriter(model.graph, f"{node.name}/{path}", node)
            float_type = weight.dtype or ir.DataType.FLOAT
            value = write(writer, x, name.removesuffix(".weight"), float_type, change)
            value.shape, value.type = x.shape, ir.TensorType(float_type)
            written[key] = value
        node.replace_input_with(0, written[key])
    return tuple(name for name in changes if name not in dict(found))
