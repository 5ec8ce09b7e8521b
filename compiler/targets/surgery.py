"""Edit a saved graph with onnx-graphsurgeon, and lose nothing that it does not know of."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_graphsurgeon as gs


def graph_from_proto(proto: onnx.ModelProto) -> gs.Graph:
    """Return the graph to edit; external tensors stay references to their file."""
    return gs.import_onnx(proto)


def proto_from_graph(graph: gs.Graph, original: onnx.ModelProto) -> onnx.ModelProto:
    """Return the edited graph of `original` with its versions, weights and all metadata.

    onnx-graphsurgeon writes its own default IR version, which need not know the operators in use,
    drops the metadata of the model and of nodes, which tells the context length and the passes, and
    copies into branches the weights that they read from outside.
    """
    edited: onnx.ModelProto = gs.export_onnx(graph)
    edited.ir_version = original.ir_version
    edited.producer_name = original.producer_name
    edited.producer_version = original.producer_version
    del edited.metadata_props[:]
    edited.metadata_props.extend(original.metadata_props)
    _restore(edited.graph, original.graph, set())
    return edited


def _restore(edited: onnx.GraphProto, original: onnx.GraphProto, outside: set[str]) -> None:
    """Give a graph and its branches back what they had; `outside` names the weights around."""
    kept = {tensor.name for tensor in original.initializer}
    made = [t for t in edited.initializer if t.name not in kept | outside]
    del edited.initializer[:]
    edited.initializer.extend([*original.initializer, *made])
    nodes = {node.name: node for node in original.node if node.name}
    for node in edited.node:
        before = nodes.get(node.name)
        if before is None:
            continue
        if not node.metadata_props:
            node.metadata_props.extend(before.metadata_props)
        for new, old in zip(_branches(node), _branches(before), strict=True):
            _restore(new, old, outside | {t.name for t in edited.initializer})


def _branches(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    found = {a.name: a.g for a in node.attribute if a.HasField("g")}
    return (found[name] for name in sorted(found))
