"""Tell nodes that read weights alone from the rest, and copy the rest for another branch."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir


def weight_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that depend on initializers alone; the graph is in topological order."""
    found: set[ir.Node] = set()
    for node in graph:
        read = [value for value in node.inputs if value is not None]
        if _subgraphs(node) or not read:
            continue
        if all(value.is_initializer() or value.producer() in found for value in read):
            found.add(node)
    return found


def has_subgraphs(graph: ir.Graph | ir.Function) -> bool:
    """Return whether a node of the graph has graphs of its own."""
    return any(_subgraphs(node) for node in graph)


def copied_node(node: ir.Node, copies: dict[ir.Value, ir.Value]) -> ir.Node:
    """Return `node` again, without graphs of its own, and note its outputs in `copies`.

    It reads the copies of what the node reads, and what has none itself.
    """
    assert not _subgraphs(node), "the caller leaves graphs with control flow alone"
    copy = ir.Node(
        node.domain,
        node.op_type,
        [_copy_of(value, copies) for value in node.inputs],
        list(node.attributes.values()),
        num_outputs=len(node.outputs),
        name=node.name,
        metadata_props=dict(node.metadata_props),
    )
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        new.name, new.shape, new.type = old.name, old.shape, old.type
        copies[old] = new
    return copy


def _copy_of(value: ir.Value | None, copies: Mapping[ir.Value, ir.Value]) -> ir.Value | None:
    return None if value is None else copies.get(value, value)


def _subgraphs(node: ir.Node) -> bool:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attributes.values())
