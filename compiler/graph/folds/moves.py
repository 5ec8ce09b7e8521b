"""Follow scales where elements only change places, the cache among them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.labels import Labels, end
from castline.compiler.graph.folds.node_result import node_result
from castline.compiler.graph.folds.sizes import Sizes
from castline.compiler.quant.arrays import Array
from castline.exporters import names


def moved(node: ir.Node, labels: Labels, sizes: Sizes) -> list[Array]:
    """Run an operator that places elements on their labels; what says where to must be known."""
    if node.inputs[0] not in labels.of:
        return end(node, labels)
    inputs: list[Array | None] = [labels.of[node.inputs[0]]]
    for value in node.inputs[1:]:
        known = sizes.known(value)
        if value is not None and known is None:
            return end(node, labels)
        inputs.append(known)
    return node_result(node, inputs)


def joined(node: ir.Node, labels: Labels, sizes: Sizes) -> list[Array]:
    """Join labels as Concat does; what the source does not reach has none, but for a past cache."""
    axis = node.attributes.get_int("axis", 0)
    scaled = next(labels.of[value] for value in node.inputs if value in labels.of)
    channel = scaled.take([0], axis)
    inputs: list[Array | None] = []
    for value in node.inputs:
        shape = None if value is None else sizes.shape(value)
        if value is None or shape is None:
            return end(node, labels)
        if value in labels.of:
            inputs.append(labels.of[value])
        elif _is_past(value, node) and (scaled == channel).all():
            labels.assumed[str(node.outputs[0].name)] = channel
            inputs.append(np.broadcast_to(channel, shape))
        else:
            inputs.append(np.zeros(shape, np.int32))
    return node_result(node, inputs)


def _is_past(value: ir.Value, concat: ir.Node) -> bool:
    """Return whether `value` is a cache that `concat` alone reads, and puts out longer.

    It then holds what the same graph put out before, scaled as it scales now.
    """
    past, present = str(value.name), concat.outputs[0]
    if not (value.is_graph_input() and past.startswith(names.PAST_PREFIX)):
        return False
    output = names.PRESENT_PREFIX + past.removeprefix(names.PAST_PREFIX)
    if not (present.is_graph_output() and present.name == output):
        return False
    return all(node is concat or node.op_type == "Shape" for node in value.consumers())
