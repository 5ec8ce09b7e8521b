"""Put one node in another's place, as every rewrite ends."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let `new` have the name, type and users of `old`, and be a graph output in its place."""
    new.name, new.shape, new.type = old.name, old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def remove_unused(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """Remove those of `nodes`, and of what feeds them, that nothing reads any more.

    Initializers that only they read go with them.
    """
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node.graph is not graph or any(_is_read(value) for value in node.outputs):
            continue
        feeding = [value for value in node.inputs if value is not None]
        graph.remove(node, safe=True)
        for value in feeding:
            producer = value.producer()
            if producer is not None:
                pending.append(producer)
            elif value.is_initializer() and not value.consumers():
                graph.initializers.pop(str(value.name))


def _is_read(value: ir.Value) -> bool:
    return value.is_graph_output() or bool(value.consumers())
