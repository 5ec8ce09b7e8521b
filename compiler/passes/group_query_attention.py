"""Lower attention, its cache and its rotary positions to one GroupQueryAttention node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.attention import CachedAttention, cached_attentions
from castline.compiler.passes.position_tables import position_table
from castline.compiler.passes.replace import remove_unused, take_over

DOMAIN = "com.microsoft"
_INPUT_IDS, _ATTENTION_MASK, _POSITION_IDS = "input_ids", "attention_mask", "position_ids"


@dataclass(frozen=True)
class GroupQueryAttention:
    """Grouped-query attention that appends to its cache in place when past and present share memory.

    The mask goes in as a bias, and positions as an input, so that padding on either side stays
    right; the node's own sequence lengths say that every row reaches to the end of the mask.

    For a first prompt the node takes the position of the first column and counts on from there,
    padding included. Later positions are therefore counted by place in the cache too: the padding on
    the left is added to them. Rotary positions are relative, so that moves nothing.
    """

    context_length: int
    """Positions that the rotary tables hold."""

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Rewrite `model` in place; return the attentions left alone, with the reason."""
        attentions, declined = cached_attentions(model)
        if not attentions:
            return declined
        shared = _Shared(model.graph, self.context_length)
        for attention in attentions:
            _lower(model.graph, attention, shared)
        model.graph.opset_imports.setdefault(DOMAIN, 1)
        model.graph.sort()
        return declined


class _Shared:
    """Values that all layers read: lengths, tables of positions, and a bias for each mask."""

    def __init__(self, graph: ir.Graph, context_length: int) -> None:
        self._graph = graph
        self._context_length = context_length
        self._tables: dict[ir.Value, ir.Value] = {}
        self._biases: dict[ir.Value, ir.Value] = {}
        inputs = {value.name: value for value in graph.inputs}
        self.position_ids = inputs[_POSITION_IDS]
        mask = inputs[_ATTENTION_MASK]
        one = self._constant("castline.one", np.array([1], np.int64))
        length = self._add("Shape", [mask], {"start": 1, "end": 2}, "/attention/Shape")
        batch = self._add("Shape", [mask], {"start": 0, "end": 1}, "/attention/Shape_1")
        last = self._add("Sub", [length, one], {}, "/attention/Sub")
        rows = self._add("Expand", [last, batch], {}, "/attention/Expand")
        int32 = {"to": ir.DataType.INT32}
        self.last_positions = self._add("Cast", [rows], int32, "/attention/Cast")
        scalar = self._constant("castline.scalar", np.array([], np.int64))
        total = self._add("Reshape", [length, scalar], {}, "/attention/Reshape")
        self.total_length = self._add("Cast", [total], int32, "/attention/Cast_1")
        self.places = self._places(mask, inputs[_POSITION_IDS], inputs[_INPUT_IDS], length)

    def _places(
        self, mask: ir.Value, positions: ir.Value, tokens: ir.Value, length: ir.Value
    ) -> ir.Value:
        """Return (position_ids + padding on the left), and zero for what is padding itself."""
        axis = self._constant("castline.axis", np.array([1], np.int64))
        end = self._constant("castline.end", np.array([np.iinfo(np.int64).max], np.int64))
        padding = self._add("ArgMax", [mask], {"axis": 1, "keepdims": 1}, "/attention/ArgMax")
        shifted = self._add("Add", [positions, padding], {}, "/attention/Add")
        now = self._add("Shape", [tokens], {"start": 1, "end": 2}, "/attention/Shape_2")
        start = self._add("Sub", [length, now], {}, "/attention/Sub_1")
        current = self._add("Slice", [mask, start, end, axis], {}, "/attention/Slice")
        return self._add("Mul", [shifted, current], {}, "/attention/Mul")

    def table(self, angles: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return cos or sin of every position as an initializer [context, width / 2]."""
        if angles not in self._tables:
            array = position_table(angles, self.position_ids, self._context_length)
            name = f"castline.{str(angles.name).rpartition('/')[2].partition('_')[0].lower()}_table"
            name += f".{len(self._tables)}"
            self._tables[angles] = self._constant(name, array.astype(dtype.numpy()))
        return self._tables[angles]

    def bias(self, mask: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return the mask as what is added to scores: zero, or the lowest finite number."""
        if mask not in self._biases:
            index = len(self._biases)
            lowest = np.array(np.finfo(dtype.numpy()).min, dtype.numpy())
            allowed = self._constant(f"castline.allowed.{index}", np.zeros((), dtype.numpy()))
            masked = self._constant(f"castline.masked.{index}", lowest)
            name = f"/attention/Where_{index}"
            self._biases[mask] = self._add("Where", [mask, allowed, masked], {}, name)
            self._biases[mask].type = ir.TensorType(dtype)
        return self._biases[mask]

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        tensor = ir.Tensor(array, name=name)
        value = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self._graph.initializers.add(value)
        return value

    def _add(
        self, op_type: str, inputs: list[ir.Value], attributes: dict[str, int], name: str
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes, name=name)
        node.outputs[0].name = f"{name}_output_0"
        self._graph.append(node)
        return node.outputs[0]


def _lower(graph: ir.Graph, attention: CachedAttention, shared: _Shared) -> None:
    dtype = attention.past[0].dtype or ir.DataType.FLOAT
    path = str(attention.node.name).rpartition("/")[0]
    flat = [
        _flat(graph, value, f"{path}/{slot}")
        for slot, value in (("q", attention.query), ("k", attention.key), ("v", attention.value))
    ]
    attributes: dict[str, int | float] = {
        "num_heads": attention.heads,
        "kv_num_heads": attention.kv_heads,
        "do_rotary": 1,
        "rotary_interleaved": int(attention.interleaved),
        "softcap": attention.softcap,
    }
    if attention.scale is not None:
        attributes["scale"] = attention.scale
    node = ir.node(
        "GroupQueryAttention",
        [
            *flat,
            *attention.past,
            shared.last_positions,
            shared.total_length,
            shared.table(attention.cos, dtype),
            shared.table(attention.sin, dtype),
            shared.places,
            shared.bias(attention.mask, dtype),
        ],
        attributes,
        domain=DOMAIN,
        num_outputs=3,
        name=f"{path}/GroupQueryAttention",
    )
    graph.append(node)
    merged = attention.output.producer()
    caches = [value.producer() for value in attention.present]
    for old, new in zip((attention.output, *attention.present), node.outputs, strict=True):
        take_over(graph, old, new)
    remove_unused(graph, [n for n in (merged, *caches) if n is not None])


def _flat(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """Return a [batch, sequence, heads, width] value with its heads side by side."""
    split = value.producer()
    source = split.inputs[0] if split is not None and split.op_type == "Reshape" else None
    if source is not None and source.shape is not None and len(source.shape) == 3:
        return source
    shape_name = "castline.merged_heads"
    if shape_name not in graph.initializers:
        tensor = ir.Tensor(np.array([0, 0, -1], np.int64), name=shape_name)
        graph.initializers.add(
            ir.Value(
                name=shape_name,
                shape=tensor.shape,
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
        )
    node = ir.node("Reshape", [value, graph.initializers[shape_name]], name=f"{name}/Reshape")
    node.outputs[0].name = f"{name}/Reshape_output_0"
    graph.append(node)
    return node.outputs[0]
