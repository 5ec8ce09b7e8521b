"""Add an initializer to a graph, under a name that nothing else has."""

from __future__ import annotations

import onnx_ir as ir

from castline.compiler.quant.arrays import Array


def add_initializer(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Add a value that has a name and a tensor; return it.

    onnx_ir would let it replace an initializer of the same name without a word.
    """
    name = str(value.name)
    assert name not in graph.initializers, f"a pass gives each initializer its own name, not {name}"
    graph.initializers.add(value)
    return value


def constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Add an initializer that holds `array`; return it."""
    tensor = ir.Tensor(array, name=name)
    return add_initializer(
        graph,
        ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        ),
    )


def shared_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Return an initializer `castline.<name>` of the whole graph; the first who asks adds it."""
    full_name = f"castline.{name}"
    found = graph.initializers.get(full_name)
    return constant(graph, full_name, array) if found is None else found
