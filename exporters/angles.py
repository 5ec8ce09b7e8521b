"""Repeat rotary angles that all texts of a batch share, as ONNX RotaryEmbedding wants them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from castline.exporters import names

_ANGLES = (1, 2)  # RotaryEmbedding's inputs cos and sin


def repeat_angles(graph: ir.Graph) -> None:
    """Expand cosines and sines [1, sequence, width / 2] to a row for each text, in place.

    Encoders count positions once for the whole batch. Primitive operations broadcast that, and so
    does the fusion's pattern; RotaryEmbedding asks for as many rows as its input has.
    """
    expanded: dict[ir.Value, ir.Value] = {}
    batch: ir.Value | None = None
    for node in list(graph):
        if node.op_type != "RotaryEmbedding":
            continue
        for position in _ANGLES:
            value = node.inputs[position]
            if value is None or not _is_shared(value):
                continue
            if value not in expanded:
                batch = batch or _batch(graph)
                expanded[value] = _expanded(graph, value, batch)
            node.replace_input_with(position, expanded[value])


def _is_shared(angles: ir.Value) -> bool:
    producer = angles.producer()
    # The fusion leaves the Cos and Sin that it makes without a shape; it is that of their input.
    shaped = producer.inputs[0] if angles.shape is None and producer is not None else angles
    return shaped is not None and shaped.shape is not None and shaped.shape[0] == 1


def _batch(graph: ir.Graph) -> ir.Value:
    """Put nodes in front of a graph that make [batch, 1, 1]."""
    tokens = next(value for value in graph.inputs if value.name == names.INPUT_IDS)
    rows = ir.node("Shape", [tokens], {"start": 0, "end": 1})
    ones = ir.node("Constant", [], {"value": ir.tensor(np.ones(2, np.int64))})
    shape = ir.node("Concat", [rows.outputs[0], ones.outputs[0]], {"axis": 0})
    graph.insert_before(graph[0], (rows, ones, shape))
    return shape.outputs[0]


def _expanded(graph: ir.Graph, value: ir.Value, shape: ir.Value) -> ir.Value:
    producer = value.producer()
    assert producer is not None, "the fusion makes the angles' Cos and Sin"
    node = ir.node("Expand", [value, shape])
    graph.insert_after(producer, node)
    return node.outputs[0]
