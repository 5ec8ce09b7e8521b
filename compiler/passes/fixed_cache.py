"""Keep keys and values in buffers of a fixed capacity, which new ones are written into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.cached_length import CachedLength, cached_length
from castline.compiler.passes.initializers import constant
from castline.compiler.passes.replace import remove_unused
from castline.exporters.names import (
    ATTENTION_MASK,
    BATCH,
    CAPACITY,
    PAST,
    PAST_PREFIX,
    PRESENT_PREFIX,
    SEQUENCE,
    TOTAL,
    WRITE_INDICES,
)

_OPSET = 24  # the first that has TensorScatter
_TOKENS = 2  # the axis of [batch, heads, tokens, width]
_GROWN = (TOTAL, f"{PAST} + {SEQUENCE}")  # how lengths that grow are called


@dataclass(frozen=True)
class FixedCache:
    """Each cache `Concat` becomes `TensorScatter`: past and present may then be one buffer.

    A new input write_indices [batch] says where each row's new tokens go. A token attends to the
    places up to its own that the attention mask, now [batch, capacity], allows; what the mask holds
    behind them does not matter, so a runtime may set it once. The buffers must hold finite numbers
    from the start: a place that is masked weighs 0, and 0 times NaN is NaN.

    Source: ONNX operators, TensorScatter-24, which TensorRT imports as IKVCacheUpdateLayer.
    """

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Rewrite `model` in place, whole or not at all; return what cannot be turned, and why."""
        graph = model.graph
        if any(value.name == WRITE_INDICES for value in graph.inputs):
            return {}
        if declined := self.declined(model):
            return declined
        pasts, length = _pasts(graph), cached_length(graph)
        assert isinstance(length, CachedLength), "declined() asked"
        indices = ir.Value(
            name=WRITE_INDICES, shape=ir.Shape([BATCH]), type=ir.TensorType(ir.DataType.INT64)
        )
        graph.inputs.insert(graph.inputs.index(pasts[0]), indices)
        _count_by_capacity(graph, length)
        _count_from_indices(graph, length, indices)
        for past in pasts:
            _scatter(graph, past, indices)
        _rename_lengths(graph)
        _import_opset(model)
        graph.sort()
        return {}

    def declined(self, model: ir.Model) -> dict[str, str]:
        """Return the inputs that stand in the way of a fixed cache, and why; {} if none does."""
        declined = {
            str(past.name): reason
            for past in _pasts(model.graph)
            if (reason := _declined(past)) is not None
        }
        length = cached_length(model.graph)
        return declined | ({ATTENTION_MASK: length} if isinstance(length, str) else {})


def _pasts(graph: ir.Graph) -> list[ir.Value]:
    return [value for value in graph.inputs if str(value.name).startswith(PAST_PREFIX)]


def _declined(past: ir.Value) -> str | None:
    users = [use.node for use in past.uses()]
    if len(users) != 1 or users[0].op_type != "Concat":
        others = ", ".join(sorted({node.op_type for node in users} - {"Concat"})) or "nothing"
        return f"it is read by {others} beside the Concat that appends to it"
    join = users[0]
    present = str(past.name).replace(PAST_PREFIX, PRESENT_PREFIX)
    axis = join.attributes.get_int("axis", 0)
    if join.outputs[0].name != present or join.inputs[0] is not past or len(join.inputs) != 2:
        return "more happens to it than that new tokens are appended"
    return None if axis in (_TOKENS, _TOKENS - 4) else f"tokens are appended along axis {axis}"


def _count_by_capacity(graph: ir.Graph, length: CachedLength) -> None:
    """Let what is as long as the cache be as long as the attention mask, which has its capacity."""
    mask = next(value for value in graph.inputs if value.name == ATTENTION_MASK)
    for index, total in enumerate(length.totals):
        node = total.producer()
        assert node is not None, "an Add made it"
        path = f"/fixed_cache/{index}"
        size = _add(graph, node, "Shape", [mask], f"{path}/Shape", {"start": 1, "end": 2})
        if total.shape is not None and len(total.shape) == 0:
            size = _add(graph, node, "Squeeze", [size], f"{path}/Squeeze")
        size.shape, size.type = total.shape, total.type
        ir.convenience.replace_all_uses_with(total, size)
        remove_unused(graph, [node])


def _count_from_indices(graph: ir.Graph, length: CachedLength, indices: ir.Value) -> None:
    """Let the places of each row's new tokens begin at its write index."""
    second = constant(graph, "castline.fixed_cache.second", np.array([1], np.int64))
    outer = constant(graph, "castline.fixed_cache.outer", np.array([1, 3], np.int64))
    for number, (old, steps) in enumerate(zip(length.places, length.steps, strict=True)):
        node = old.producer()
        assert node is not None, "an Unsqueeze made it"
        path = f"/fixed_cache/places_{number}"
        starts = _add(graph, node, "Unsqueeze", [indices, second], f"{path}/Unsqueeze")
        places = _add(graph, node, "Add", [starts, steps], f"{path}/Add")
        new = _add(graph, node, "Unsqueeze", [places, outer], f"{path}/Unsqueeze_1")
        starts.shape, places.shape = ir.Shape([BATCH, 1]), ir.Shape([BATCH, SEQUENCE])
        new.shape = ir.Shape([BATCH, 1, SEQUENCE, 1])
        for value in (starts, places, new):
            value.type = ir.TensorType(ir.DataType.INT64)
        ir.convenience.replace_all_uses_with(old, new)
        remove_unused(graph, [node])
        _spread_rows(new)


def _spread_rows(places: ir.Value) -> None:
    """Note that what is computed from places that differ by row differs by row, too."""
    pending = [use.node for use in places.uses()]
    while pending:
        for value in pending.pop().outputs:
            if value.shape is None or len(value.shape) != 4 or value.shape[0] != 1:
                continue
            value.shape = ir.Shape([BATCH, *value.shape[1:]])
            pending += [use.node for use in value.uses()]


def _scatter(graph: ir.Graph, past: ir.Value, indices: ir.Value) -> None:
    join = next(iter(past.uses())).node
    present, new = join.outputs[0], join.inputs[1]
    name = str(join.name)
    node = ir.node(
        "TensorScatter",
        [past, new, indices],
        {"axis": _TOKENS, "mode": "linear"},
        name=f"{name.rpartition('/')[0]}/TensorScatter_{name.rpartition('/')[2]}",
    )
    node.metadata_props.update(join.metadata_props)
    graph.insert_before(join, node)
    written = node.outputs[0]
    written.name, written.shape, written.type = present.name, present.shape, present.type
    ir.convenience.replace_all_uses_with(present, written, replace_graph_outputs=True)
    graph.remove(join, safe=True)
    assert past.shape is not None, "inputs have shapes"
    past.shape = written.shape = ir.Shape([*past.shape[:_TOKENS], CAPACITY, *past.shape[3:]])


def _rename_lengths(graph: ir.Graph) -> None:
    """Let every shape say capacity where it said how long the cache has grown."""
    for value in (*graph.inputs, *(v for node in graph for v in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(size) for size in value.shape])


def _renamed(size: int | ir.SymbolicDim) -> int | str | None:
    if isinstance(size, int):
        return size
    name = size.value
    if name is None or not any(grown in name for grown in _GROWN):
        return name
    return CAPACITY if name in _GROWN else None


def _import_opset(model: ir.Model) -> None:
    for imports in (model.opset_imports, *(f.opset_imports for f in model.functions.values())):
        imports[""] = max(imports.get("", 0), _OPSET)


def _add(
    graph: ir.Graph,
    before: ir.Node,
    op_type: str,
    inputs: list[ir.Value],
    name: str,
    attributes: dict[str, int] | None = None,
) -> ir.Value:
    node = ir.node(op_type, inputs, attributes or {}, name=name)
    node.outputs[0].name = f"{name}_output_0"
    graph.insert_before(before, node)
    return node.outputs[0]
