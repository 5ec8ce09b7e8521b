"""Let a saved decoder compute the logits of the last token alone, and undo it in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from castline.compiler.targets.surgery import graph_from_proto, proto_from_graph
from castline.compiler.targets.token_operators import TokenValues, subgraphs
from castline.errors import TargetError
from castline.exporters.names import LOGITS, SEQUENCE

LAST_TOKEN = "castline/last_token"
"""The name of the node that keeps the last token, and the beginning of its values' names."""

_RANK, _TOKENS = 3, 1  # of [batch, sequence, width]
_END = np.iinfo(np.int64).max


def keep_last_logits(model: Path) -> None:
    """Rewrite a saved decoder in place, so that its logits are [batch, 1, vocabulary].

    One Slice on the sequence axis stands as far before the logits as every node computes each token
    by itself, so that the head multiplies one row. The last place of a row must be its last token:
    prompts of different lengths are padded on the left. Weights are neither read nor moved.

    Raises:
        TargetError: the file has no logits, or nothing before them computes each token by itself.
    """
    proto = onnx.load(model, load_external_data=False)
    graph = graph_from_proto(proto)
    if not keep_last_token(graph, model):
        return
    partial = model.with_name(f"{model.name}.partial")
    onnx.save(proto_from_graph(graph, proto), partial)
    partial.replace(model)


def keep_last_token(graph: gs.Graph, model: Path) -> bool:
    """Rewrite a decoder's graph as `keep_last_logits` says; `model` is named in errors.

    Returns whether anything changed: a graph with the node stays as it is.
    """
    if any(node.name == LAST_TOKEN for node in graph.nodes):
        return False
    logits = next((value for value in graph.outputs if value.name == LOGITS), None)
    if logits is None:
        raise TargetError(f"{model} has no output {LOGITS}; only a decoder's are cut to the last.")
    tokens = TokenValues(graph)
    branches = list(_branches(graph, logits))
    for number, (branch, value) in enumerate(branches):
        cut, between = _cut(branch, value, tokens)
        if cut is None:
            node = value.inputs[0]
            raise TargetError(
                f"{model}: logits cannot be cut to the last token, since {node.name or node.op} "
                f"({node.op}) is not known to compute each token by itself. Use --logits all."
            )
        _insert(branch, cut, between, f"{LAST_TOKEN}_{number}" if number else LAST_TOKEN)
    for value in (logits, *(value for _, value in branches)):
        value.shape = None if value.shape is None else _one_token(value.shape)
    return True


def _branches(graph: gs.Graph, logits: gs.Variable) -> Iterator[tuple[gs.Graph, gs.Variable]]:
    """Yield each graph that computes the logits, the branches of an If in its stead."""
    node = logits.inputs[0] if logits.inputs else None
    if node is None or node.op != "If":
        yield graph, logits
        return
    place = next(i for i, value in enumerate(node.outputs) if value is logits)
    for branch in subgraphs(node):
        yield from _branches(branch, branch.outputs[place])


def _cut(
    graph: gs.Graph, logits: gs.Variable, tokens: TokenValues
) -> tuple[gs.Variable | None, list[gs.Node]]:
    """Return the first value that alone leads to the logits, token by token, and what is between.

    From the logits on, the node that comes last in the graph is taken in, as long as it and all
    readers of its values are on the way; wherever one value is left over, the graph can be cut.
    """
    order = {id(node): place for place, node in enumerate(graph.nodes)}
    outputs = {id(value) for value in graph.outputs} - {id(logits)}
    left, between = {id(logits): logits}, list[gs.Node]()
    cut: tuple[gs.Variable | None, list[gs.Node]] = (None, [])
    # A branch of an If reads values from outside, whose nodes are not its own.
    while all(value.inputs and id(value.inputs[0]) in order for value in left.values()):
        node = max((value.inputs[0] for value in left.values()), key=lambda n: order[id(n)])
        read = tokens.read_by(node)
        taken = {id(each) for each in (*between, node)}
        if read is None or any(
            id(value) in outputs or any(id(reader) not in taken for reader in value.outputs)
            for value in node.outputs
            if not value.is_empty()
        ):
            break
        between.append(node)
        left = {key: v for key, v in left.items() if v.inputs[0] is not node}
        left |= {id(value): value for value in read}
        if len(left) == 1:
            cut = (next(iter(left.values())), list(between))
    return cut


def _insert(graph: gs.Graph, value: gs.Variable, between: list[gs.Node], name: str) -> None:
    shape = None if value.shape is None else _one_token(value.shape)
    last = gs.Variable(f"{name}_output_0", dtype=value.dtype, shape=shape)
    for node in between:
        node.inputs = [last if read is value else read for read in node.inputs]
        for made in node.outputs:
            if made.shape is not None and len(made.shape) == _RANK:
                made.shape = _one_token(made.shape)
    span = [
        gs.Constant(f"{name}/{part}", np.array([number], np.int64))
        for part, number in (("start", -1), ("end", _END), ("axis", _TOKENS))
    ]
    node = gs.Node("Slice", name, inputs=[value, *span], outputs=[last])
    first = min(graph.nodes.index(each) for each in between)
    graph.nodes.insert(first, node)


def _one_token(shape: list[int | str]) -> list[int | str]:
    return [*shape[:_TOKENS], 1, *shape[_TOKENS + 1 :]]


def whole_model(model: Path) -> Path | bytes:
    """Return a saved model that gives the logits of every token: the file, or what undoes its cut.

    The latter is the serialized graph alone; its weights stay in the folder of the file.
    """
    if LAST_TOKEN.encode() not in model.read_bytes():
        return model
    return with_all_logits(onnx.load(model, load_external_data=False)).SerializeToString()


def with_all_logits(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with the logits of every token, whether or not it was cut to the last."""
    restored = onnx.ModelProto()
    restored.CopyFrom(proto)
    for graph in _graphs(restored.graph):
        for node in [node for node in graph.node if node.name.startswith(LAST_TOKEN)]:
            _restore(graph, node)
            _open_logits(restored.graph)
    return restored


def _open_logits(graph: onnx.GraphProto) -> None:
    """Say of the logits of a model whose branches are restored that they are of every token."""
    for info in graph.output:
        if info.name == LOGITS:
            _open_sequence(info)


def _restore(graph: onnx.GraphProto, cut: onnx.NodeProto) -> None:
    value, last = cut.input[0], cut.output[0]
    for tensor in [each for each in graph.initializer if each.name in cut.input]:
        graph.initializer.remove(tensor)
    graph.node.remove(cut)
    after = {last}
    for node in graph.node:
        if after.intersection(node.input):
            after.update(node.output)
        node.input[:] = [value if name == last else name for name in node.input]
    for info in (*graph.value_info, *graph.output):
        if info.name in after:
            _open_sequence(info)


def _open_sequence(info: onnx.ValueInfoProto) -> None:
    sizes = info.type.tensor_type.shape.dim
    if len(sizes) == _RANK and sizes[_TOKENS].dim_value == 1:
        sizes[_TOKENS].dim_param = SEQUENCE


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and those inside of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
