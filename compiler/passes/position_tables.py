"""Fold what a graph computes from positions alone into a table of all positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator


def position_table(value: ir.Value, position_ids: ir.Value, positions: int) -> npt.NDArray[Any]:
    """Return `value` for positions 0 .. `positions` - 1, [positions, width] float32.

    `value` is [batch, sequence, width] and may depend on `position_ids` and constants only. What is
    cast to half precision on the way is taken before the cast.
    """
    source = value.producer()
    if source is not None and source.op_type == "Cast" and value.dtype != ir.DataType.FLOAT:
        before = source.inputs[0]
        assert before is not None, "Cast has an input"
        value = before
    model = _subgraph(value, position_ids)
    ids = np.arange(positions, dtype=np.int64)[None]
    (table,) = ReferenceEvaluator(model).run(None, {str(position_ids.name): ids})
    return np.asarray(table[0], np.float32)


def _subgraph(value: ir.Value, position_ids: ir.Value) -> onnx.ModelProto:
    nodes: list[ir.Node] = []
    constants: dict[str, ir.Value] = {}
    pending, seen = [value], {position_ids}
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        producer = current.producer()
        if producer is None:
            assert current.const_value is not None, f"{current.name} is not a function of positions"
            constants[str(current.name)] = current
            continue
        if producer not in nodes:
            nodes.append(producer)
        pending.extend(v for v in producer.inputs if v is not None)
    graph = onnx.helper.make_graph(
        [ir.to_proto(node) for node in reversed(_ordered(nodes))],
        "positions",
        [onnx.helper.make_tensor_value_info(str(position_ids.name), onnx.TensorProto.INT64, None)],
        [onnx.helper.make_tensor_value_info(str(value.name), onnx.TensorProto.FLOAT, None)],
        [
            onnx.numpy_helper.from_array(v.const_value.numpy(), name)
            for name, v in constants.items()
            if v.const_value is not None
        ],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)])


def _ordered(nodes: list[ir.Node]) -> list[ir.Node]:
    """Return the nodes with every reader before what it reads."""
    assert nodes[0].graph is not None, "the nodes belong to a graph"
    position = {node: index for index, node in enumerate(nodes[0].graph)}
    return sorted(nodes, key=lambda node: -position[node])
