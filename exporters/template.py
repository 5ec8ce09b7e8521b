"""Take the layers of a traced decoder apart: shared prologue, one template a kind, epilogue."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import onnx_ir as ir

from castline.errors import UnsupportedArchitectureError
from castline.exporters import names

ROOT = "m."  # the traced module holds the model under this name
_CACHE_RANK = 4  # [batch, kv_heads, past, head_dim]
_SCOPES = "pkg.torch.onnx.name_scopes"  # metadata that the exporter leaves on nodes


@dataclass(frozen=True)
class LayerTemplate:
    """The nodes of one traced layer and the values through which it touches the rest."""

    index: int
    nodes: tuple[ir.Node, ...]
    carry_in: ir.Value
    """The hidden state that the layer reads, [batch, sequence, hidden]."""
    carry_out: ir.Value
    """The hidden state that it hands on."""


@dataclass(frozen=True)
class Template:
    """A traced decoder in parts; together they hold every node of `model` once."""

    model: ir.Model
    stack: str
    prologue: tuple[ir.Node, ...]
    layers: tuple[LayerTemplate, ...]
    epilogue: tuple[ir.Node, ...]


def template(model: ir.Model, stack: str, layers: int) -> Template:
    """Split a traced graph; `stack` is the path of its `layers` layers, such as "model.layers".

    Raises UnsupportedArchitectureError when a layer does not hand on exactly one hidden state.
    """
    _sizes_from_tokens(model.graph)
    varying = _varying(model.graph)
    owner = _owners(model.graph, stack, varying)
    own_nodes: list[list[ir.Node]] = [[] for _ in range(layers)]
    for node, layer in owner.items():
        own_nodes[layer].append(node)

    parts = tuple(_layer(i, tuple(nodes), owner, varying) for i, nodes in enumerate(own_nodes))
    after = _downstream(parts[-1].carry_out, owner)
    prologue = tuple(n for n in model.graph if n not in owner and n not in after)
    epilogue = tuple(n for n in model.graph if n in after)
    return Template(model, stack, prologue, parts, epilogue)


def scope(node: ir.Node) -> tuple[str, ...]:
    """Return the module paths a node was traced in, outermost first: ("model", "model.norm")."""
    listed = node.metadata_props.get(_SCOPES)
    if listed is None:
        return ()
    paths = ast.literal_eval(listed)[:-1]  # the last entry is the operation
    return tuple(path.removeprefix(ROOT) for path in paths if path.startswith(ROOT))


def _sizes_from_tokens(graph: ir.Graph) -> None:
    """Take batch, past and total lengths from input_ids and attention_mask alone.

    The exporter reads them off whichever cache came last, which ties every graph to that layer and
    fails for caches that are allocated longer than they are filled.
    """
    reads = [node for node in graph if node.op_type == "Shape" and _is_cache(node.inputs[0])]
    if not reads:
        return
    sizes = _sizes(graph)
    for node in reads:
        axis = node.attributes.get_int("start", 0)
        if node.attributes.get_int("end", _CACHE_RANK) != axis + 1 or axis not in sizes:
            raise UnsupportedArchitectureError(
                f"The traced graph reads the shape of {_name(node.inputs[0])} in a way that has no "
                "equivalent in input_ids and attention_mask."
            )
        node.outputs[0].replace_all_uses_with(sizes[axis])
        graph.remove(node, safe=True)


def _is_cache(value: ir.Value | None) -> bool:
    return value is not None and str(value.name).startswith(names.PAST_PREFIX)


def _sizes(graph: ir.Graph) -> dict[int, ir.Value]:
    """Put nodes for batch and past length in front; return their values, [1], by cache axis."""
    inputs = {value.name: value for value in graph.inputs}
    tokens, mask = inputs[names.INPUT_IDS], inputs[names.ATTENTION_MASK]
    batch = ir.node("Shape", [tokens], {"start": 0, "end": 1})
    new = ir.node("Shape", [tokens], {"start": 1, "end": 2})
    total = ir.node("Shape", [mask], {"start": 1, "end": 2})
    past = ir.node("Sub", [total.outputs[0], new.outputs[0]])
    nodes = (batch, new, total, past)
    graph.insert_before(graph[0], nodes)
    for node in nodes:
        value = node.outputs[0]
        value.shape, value.type = ir.Shape([1]), ir.TensorType(ir.DataType.INT64)
    return {0: batch.outputs[0], 2: past.outputs[0]}


def _varying(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that depend on a weight or a cache: those that differ between layers."""
    varying = {value for value in graph.inputs if value.name not in names.TOKEN_INPUTS}
    sources = set(graph.inputs)
    for node in graph:
        if node.op_type in ("Shape", "Size") and node.inputs[0] in sources:
            continue  # the size of an input is the same for every layer
        if any(value in varying for value in node.inputs):
            varying.update(node.outputs)
    return varying


def _owners(graph: ir.Graph, stack: str, varying: set[ir.Value]) -> dict[ir.Node, int]:
    """Return the layer that each node belongs to, leaving out what all layers share."""
    owner: dict[ir.Node, int] = {}
    unscoped: list[ir.Node] = []
    for node in graph:
        if not any(value in varying for value in node.outputs):
            continue
        paths = scope(node)
        if not paths:
            unscoped.append(node)  # Split nodes lose their metadata in the exporter
            continue
        layer = _layer_of(paths, stack)
        if layer is not None:
            owner[node] = layer
    for node in reversed(unscoped):  # readers first: one of them may lack its scope, too
        readers = [owner[reader] for reader in node.successors() if reader in owner]
        if readers:
            owner[node] = min(readers)
    return {node: owner[node] for node in graph if node in owner}


def _layer_of(paths: tuple[str, ...], stack: str) -> int | None:
    prefix = stack + "."
    for path in paths:
        if path.startswith(prefix):
            return int(path.removeprefix(prefix).partition(".")[0])
    return None


def _layer(
    index: int, nodes: tuple[ir.Node, ...], owner: dict[ir.Node, int], varying: set[ir.Value]
) -> LayerTemplate:
    carries_in = {
        value
        for node in nodes
        for value in node.inputs
        if value in varying and _is_made_elsewhere(value, index, owner)
    }
    carries_out = {
        value
        for node in nodes
        for value in node.outputs
        if any(owner.get(user) != index for user in value.consumers()) or _ends_the_model(value)
    }
    if len(carries_in) != 1 or len(carries_out) != 1:
        raise UnsupportedArchitectureError(
            f"Layer {index} of the traced model reads {len(carries_in)} values of other layers and "
            f"hands on {len(carries_out)}; stamping needs exactly one hidden state: in "
            f"{sorted(v.name or '?' for v in carries_in)}, out "
            f"{sorted(v.name or '?' for v in carries_out)}."
        )
    return LayerTemplate(index, nodes, carries_in.pop(), carries_out.pop())


def _is_made_elsewhere(
    value: ir.Value | None, layer: int, owner: dict[ir.Node, int]
) -> TypeGuard[ir.Value]:
    producer = None if value is None else value.producer()
    return producer is not None and owner.get(producer) != layer


def _ends_the_model(value: ir.Value) -> bool:
    """Return whether a layer's value is the model's output: encoders have nothing after a layer."""
    return value.is_graph_output() and not str(value.name).startswith(names.PRESENT_PREFIX)


def _downstream(value: ir.Value, owner: dict[ir.Node, int]) -> set[ir.Node]:
    found: set[ir.Node] = set()
    pending = [n for n in value.consumers() if n not in owner]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending.extend(node.successors())
    return found


def check_same_kind(a: LayerTemplate, b: LayerTemplate, stack: str) -> None:
    """Prove that two layers of a kind differ in nothing but their weights, caches and input.

    Raises UnsupportedArchitectureError that names the first node in which they differ.
    """
    paired: dict[ir.Value, ir.Value] = {a.carry_in: b.carry_in}
    if [n.op_type for n in a.nodes] != [n.op_type for n in b.nodes]:
        only = Counter(n.op_type for n in a.nodes) - Counter(n.op_type for n in b.nodes)
        _refuse(a, b, f"their operations differ ({dict(only)})")
    for left, right in zip(a.nodes, b.nodes, strict=True):
        if _attributes(left) != _attributes(right):
            _refuse(a, b, f"attributes of {left.op_type} {left.name} differ")
        if len(left.inputs) != len(right.inputs):
            _refuse(a, b, f"{left.op_type} {left.name} has another number of inputs")
        for x, y in zip(left.inputs, right.inputs, strict=True):
            if not _corresponds(x, y, paired, a, b, stack):
                _refuse(a, b, f"{left.op_type} {left.name} reads {_name(x)} against {_name(y)}")
        paired.update(zip(left.outputs, right.outputs, strict=True))


def _corresponds(
    x: ir.Value | None,
    y: ir.Value | None,
    paired: dict[ir.Value, ir.Value],
    a: LayerTemplate,
    b: LayerTemplate,
    stack: str,
) -> bool:
    if x is None or y is None or x is y:
        return x is y
    if x in paired:
        return paired[x] is y
    if x.const_value is not None and y.const_value is not None:
        return np.array_equal(x.const_value.numpy(), y.const_value.numpy())
    return at_layer(x.name or "", stack, a.index, b.index) == y.name


def at_layer(name: str, stack: str, source: int, target: int) -> str:
    """Return the name that a weight or cache of layer `source` has in layer `target`."""
    for prefix in (f"{stack}.", names.PAST_PREFIX, names.PRESENT_PREFIX):
        if name.startswith(f"{prefix}{source}."):
            return f"{prefix}{target}.{name[len(prefix) + len(str(source)) + 1 :]}"
    return name


def _attributes(node: ir.Node) -> dict[str, object]:
    return {name: _comparable(attribute) for name, attribute in node.attributes.items()}


def _comparable(attribute: ir.Attr) -> object:
    if attribute.type != ir.AttributeType.TENSOR:
        return attribute.value
    tensor = attribute.as_tensor()
    return tensor.dtype, tuple(tensor.shape), tensor.tobytes()


def _name(value: ir.Value | None) -> str:
    return "nothing" if value is None else str(value.name)


def _refuse(a: LayerTemplate, b: LayerTemplate, reason: str) -> None:
    raise UnsupportedArchitectureError(
        f"Layers {a.index} and {b.index} of the traced model should be alike, but {reason}; "
        "stamping one for the other would be wrong."
    )
