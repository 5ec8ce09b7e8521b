"""Find where one layer of a graph hands its hidden state on to the next."""

from __future__ import annotations

import re

import onnx_ir as ir

# The first number of "/model/layers.3/mlp/experts.7/Mul_output_0" is the layer in its stack.
_LAYER = re.compile(r"/(.*?\.(\d+))[/.]")
_HIDDEN_RANK = 3  # [batch, sequence, hidden]


def layer_of(name: str | None) -> int | None:
    """Return the layer that a node's or a value's name is of: 3 for "/model/layers.3/mlp/Mul"."""
    found = _LAYER.match(name or "")
    return int(found[2]) if found else None


def module_of(name: str) -> str:
    """Return the layer's module by the name of a value of it: "model.layers.3"."""
    found = _LAYER.match(name)
    assert found is not None, f"{name} is of no layer"
    return found[1].replace("/", ".")


def layer_boundaries(graph: ir.Graph) -> dict[int, ir.Value]:
    """Return the hidden state that each layer hands on, by the index of the layer, in order.

    Names tell which layer a value was traced in, and rewriting keeps them: a sum that a later
    layer's norm took in is still called after the layer that it ends. A layer is left out that
    hands on no value of such a name, or several; the last of an encoder, which hands on the output
    itself, is one of them.
    """
    handed_on: dict[int, list[ir.Value]] = {}
    taken_in: dict[int, list[ir.Value]] = {}
    for node in graph:
        for value in node.outputs:
            layer = layer_of(value.name)
            if layer is None:
                continue
            if layer_of(node.name) != layer:
                taken_in.setdefault(layer, []).append(value)
            elif any(not _is_inside(reader, layer) for reader in value.consumers()):
                handed_on.setdefault(layer, []).append(value)
    found = handed_on | taken_in
    return {layer: found[layer][0] for layer in sorted(found) if len(found[layer]) == 1}


def embedding_boundary(graph: ir.Graph, width: int) -> ir.Value | None:
    """Return the hidden state [batch, sequence, width] that layer 0 reads; None if it is not one.

    The shapes of values must be known, as an export has them.
    """
    read = {
        value
        for node in graph
        if layer_of(node.name) == 0
        for value in node.inputs
        if value is not None and _is_before(value) and _is_hidden(value, width)
    }
    return read.pop() if len(read) == 1 else None


def _is_inside(node: ir.Node, layer: int) -> bool:
    """Return whether a node is of a layer: by its name or, without a layer in it, by its readers.

    The exporter leaves some nodes without the module that they were traced in.
    """
    found = layer_of(node.name)
    if found is not None:
        return found == layer
    return any(_is_inside(reader, layer) for reader in node.successors())


def _is_before(value: ir.Value) -> bool:
    """Return whether a value is computed, and before the layers, whatever its node is called."""
    node = value.producer()
    if node is None or layer_of(value.name) is not None:
        return False
    return not any(one is not None and layer_of(one.name) is not None for one in node.inputs)


def _is_hidden(value: ir.Value, width: int) -> bool:
    shape = value.shape
    return shape is not None and len(shape) == _HIDDEN_RANK and shape[-1] == width
