"""Compute a value that depends on a few inputs only, such as a mask or a table of positions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from castline.compiler.quant.arrays import Array


def sources(value: ir.Value) -> set[ir.Value]:
    """Return the graph inputs that `value` depends on."""
    return {v for v in ancestors(value) if v.is_graph_input()}


def evaluate(value: ir.Value, feeds: Mapping[ir.Value, Array]) -> Array:
    """Return `value` for the given inputs, which must be all of its `sources`.

    ONNX's reference evaluator computes it, in plain numpy: meant for small subgraphs.
    """
    depended = ancestors(value)
    missing = {str(v.name) for v in depended if v.is_graph_input()} - {str(v.name) for v in feeds}
    assert not missing, f"{value.name} also depends on {sorted(missing)}"
    producers = {v.producer() for v in depended} - {None}
    assert value.graph is not None, "the value belongs to a graph"
    graph = onnx.helper.make_graph(
        [ir.to_proto(node) for node in value.graph if node in producers],
        "part",
        [onnx.helper.make_tensor_value_info(str(v.name), _any_type(v), None) for v in feeds],
        [onnx.helper.make_tensor_value_info(str(value.name), _any_type(value), None)],
        [
            onnx.numpy_helper.from_array(v.const_value.numpy(), str(v.name))
            for v in depended
            if v.is_initializer() and v.const_value is not None
        ],
    )
    opsets = [onnx.helper.make_opsetid(*opset) for opset in value.graph.opset_imports.items()]
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    inputs = {str(v.name): array for v, array in feeds.items()}
    (result,) = ReferenceEvaluator(model).run([str(value.name)], inputs)
    return np.asarray(result)


def ancestors(value: ir.Value) -> set[ir.Value]:
    """Return `value` and every value that it is computed from."""
    seen: set[ir.Value] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        producer = current.producer()
        if producer is not None:
            pending.extend(v for v in producer.inputs if v is not None)
    return seen


def _any_type(value: ir.Value) -> int:
    return int(value.dtype or ir.DataType.FLOAT)
