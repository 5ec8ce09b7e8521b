"""Lower attention, its cache and its rotary positions to one GroupQueryAttention node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.attention import CachedAttention, cached_attentions
from castline.compiler.graph.attention_mask import CausalMask, causal_mask
from castline.compiler.passes.contrib import DOMAIN, import_contrib
from castline.compiler.passes.initializers import constant
from castline.compiler.passes.position_tables import depends_on_positions_alone, position_table
from castline.compiler.passes.replace import remove_unused, take_over
from castline.exporters.names import ATTENTION_MASK, INPUT_IDS, POSITION_IDS

_HEAD_SIZE_MULTIPLE = 16  # what the node asks of head sizes when it turns them by positions


@dataclass(frozen=True)
class GroupQueryAttention:
    """Grouped-query attention, in place in its cache when past and present share memory.

    The mask goes in as a bias, and positions as an input, so that padding on either side stays
    right; the node's own sequence lengths say that every row reaches to the end of the mask.

    For a first prompt the node takes the position of the first column and counts on from there,
    padding included. Later positions are therefore counted by place in the cache too: the padding
    on the left is added to them. Rotary positions are relative, so that moves nothing.
    """

    context_length: int
    """Positions that the rotary tables hold."""

    bias: bool = True
    """Whether the mask goes in as a bias. Without it the lengths of the rows do, which the kernels
    of GPUs are fast with: rows may be padded on the right alone, and positions are not read."""

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Rewrite `model` in place; return the attentions left alone, with the reason."""
        attentions, declined = cached_attentions(model)
        if not attentions:
            return declined
        refused = self._refused(model.graph, attentions)
        declined |= {str(attention.node.name): reason for attention, reason in refused.items()}
        if len(refused) == len(attentions):
            return declined
        shared = _Shared(model.graph, self.context_length, bias=self.bias)
        for attention in attentions:
            if attention not in refused:
                _lower(model.graph, attention, shared)
        import_contrib(model)
        model.graph.sort()
        return declined

    def _refused(
        self, graph: ir.Graph, attentions: Sequence[CachedAttention]
    ) -> dict[CachedAttention, str]:
        """Return those attentions that the node cannot compute, with the reason."""
        position_ids = next(value for value in graph.inputs if value.name == POSITION_IDS)
        angles = dict.fromkeys(v for a in attentions for v in (a.cos, a.sin))
        tabled = {
            value: depends_on_positions_alone(value, position_ids, self.context_length)
            for value in angles
        }
        refused = {}
        for attention in attentions:
            if attention.width % _HEAD_SIZE_MULTIPLE:
                refused[attention] = (
                    f"its head size {attention.width} is not a multiple of {_HEAD_SIZE_MULTIPLE}"
                )
            elif not (tabled[attention.cos] and tabled[attention.sin]):
                refused[attention] = "its rotary angles depend on more than each token's position"
            elif not self.bias and not _is_causal(attention.mask, self.context_length):
                refused[attention] = "its mask is not causal, and goes in as a bias alone"
        return refused


def _is_causal(mask: ir.Value, context_length: int) -> bool:
    return isinstance(causal_mask(mask, context_length), CausalMask)


class _Shared:
    """Values that all layers read: lengths, tables of positions, and a bias for each mask."""

    def __init__(self, graph: ir.Graph, context_length: int, *, bias: bool) -> None:
        self._graph = graph
        self._context_length = context_length
        self._tables: dict[str, dict[ir.Value, ir.Value]] = {}
        self._biases: dict[ir.Value | None, ir.Value] = {}
        self._forms: dict[ir.Value, CausalMask | None] = {}
        inputs = {value.name: value for value in graph.inputs}
        self.position_ids = inputs[POSITION_IDS]
        self._mask, tokens = inputs[ATTENTION_MASK], inputs[INPUT_IDS]
        one_token = {"start": 1, "end": 2}
        self._one = constant(self._graph, "castline.one", np.array([1], np.int64))
        self._length = self._add("Shape", [self._mask], one_token, "/attention/Shape")
        self._now = self._add("Shape", [tokens], one_token, "/attention/Shape_1")
        self._batch = self._add("Shape", [tokens], {"start": 0, "end": 1}, "/attention/Shape_2")
        rows = self._last_of_mask() if bias else self._last_of_rows()
        int32 = {"to": ir.DataType.INT32}
        self.last_positions = self._add("Cast", [rows], int32, "/attention/Cast")
        scalar = constant(self._graph, "castline.scalar", np.array([], np.int64))
        total = self._add("Reshape", [self._length, scalar], {}, "/attention/Reshape")
        self.total_length = self._add("Cast", [total], int32, "/attention/Cast_1")
        self.places = self._places() if bias else None
        self._has_bias = bias

    def _last_of_mask(self) -> ir.Value:
        """Return the last place of the mask for every row, [batch]."""
        last = self._add("Sub", [self._length, self._one], {}, "/attention/Sub")
        return self._add("Expand", [last, self._batch], {}, "/attention/Expand")

    def _last_of_rows(self) -> ir.Value:
        """Return the place of each row's last token, [batch]: padding on the right is behind it."""
        counted = {"keepdims": 0}
        count = self._add("ReduceSum", [self._mask, self._one], counted, "/attention/ReduceSum")
        return self._add("Sub", [count, self._one], {}, "/attention/Sub")

    def _places(self) -> ir.Value:
        """Return (position_ids + padding on the left), and zero for what is padding itself."""
        end = constant(self._graph, "castline.end", np.array([np.iinfo(np.int64).max], np.int64))
        first = {"axis": 1, "keepdims": 1}
        padding = self._add("ArgMax", [self._mask], first, "/attention/ArgMax")
        shifted = self._add("Add", [self.position_ids, padding], {}, "/attention/Add")
        start = self._add("Sub", [self._length, self._now], {}, "/attention/Sub_1")
        window = [self._mask, start, end, self._one]
        current = self._add("Slice", window, {}, "/attention/Slice")
        return self._add("Mul", [shifted, current], {}, "/attention/Mul")

    def table(self, name: str, angles: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return cos or sin of every position as an initializer [context, width / 2].

        Its name is `name`, numbered from the second table of that name on.
        """
        tables = self._tables.setdefault(name, {})
        if angles not in tables:
            array = position_table(angles, self.position_ids, self._context_length)
            numbered = f"{name}.{len(tables)}" if tables else name
            tables[angles] = constant(self._graph, numbered, array.astype(dtype.numpy()))
        return tables[angles]

    def form(self, mask: ir.Value) -> CausalMask | None:
        """Return what the mask allows beyond padding, if it is a form that the node has itself."""
        if mask not in self._forms:
            form = causal_mask(mask, self._context_length)
            self._forms[mask] = form if isinstance(form, CausalMask) else None
        return self._forms[mask]

    def bias(self, mask: ir.Value, dtype: ir.DataType) -> ir.Value | None:
        """Return what is added to scores [batch, 1, sequence, total]: zero, or the lowest number.

        For a form that the node has itself that is the padding alone, in far fewer steps. None
        where the lengths of the rows say it.
        """
        if not self._has_bias:
            return None
        key = None if self.form(mask) is not None else mask
        if key not in self._biases:
            allowed = self._not_padding() if key is None else mask
            index = len(self._biases)
            lowest = np.array(np.finfo(dtype.numpy()).min, dtype.numpy())
            zero = constant(self._graph, f"castline.allowed.{index}", np.zeros((), dtype.numpy()))
            masked = constant(self._graph, f"castline.masked.{index}", lowest)
            bias = self._add("Where", [allowed, zero, masked], {}, f"/attention/Where_{index}")
            bias.type = ir.TensorType(dtype)
            if key is None:
                bias = self._add("Expand", [bias, self._score_shape()], {}, "/attention/Expand_1")
                bias.type = ir.TensorType(dtype)
            self._biases[key] = bias
        return self._biases[key]

    def _not_padding(self) -> ir.Value:
        """Return attention_mask as bool [batch, 1, 1, total]."""
        axes = constant(self._graph, "castline.axes", np.array([1, 2], np.int64))
        boolean = {"to": ir.DataType.BOOL}
        allowed = self._add("Cast", [self._mask], boolean, "/attention/Cast_2")
        return self._add("Unsqueeze", [allowed, axes], {}, "/attention/Unsqueeze")

    def _score_shape(self) -> ir.Value:
        parts = [self._batch, self._one, self._now, self._length]
        return self._add("Concat", parts, {"axis": 0}, "/attention/Concat")

    def _add(
        self, op_type: str, inputs: list[ir.Value], attributes: Mapping[str, int], name: str
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes, name=name)
        node.outputs[0].name = f"{name}_output_0"
        self._graph.append(node)
        return node.outputs[0]


def _lower(graph: ir.Graph, attention: CachedAttention, shared: _Shared) -> None:
    dtype = attention.cos.dtype or ir.DataType.FLOAT
    path = str(attention.node.name).rpartition("/")[0]
    flat = [
        _flat(graph, value, f"{path}/{slot}")
        for slot, value in (("q", attention.query), ("k", attention.key), ("v", attention.value))
    ]
    form = shared.form(attention.mask)
    attributes: dict[str, int | float | str] = {
        "num_heads": attention.heads,
        "kv_num_heads": attention.kv_heads,
        "do_rotary": 1,
        "rotary_interleaved": int(attention.interleaved),
        "softcap": attention.softcap,
        "local_window_size": form.window if form and form.window else -1,
    }
    if attention.scale is not None:
        attributes["scale"] = attention.scale
    if attention.scales is not None:
        attributes |= _quantization(attention.scales)
    node = ir.node(
        "GroupQueryAttention",
        [
            *flat,
            *attention.past,
            shared.last_positions,
            shared.total_length,
            shared.table("cos_cache", attention.cos, dtype),
            shared.table("sin_cache", attention.sin, dtype),
            shared.places,
            shared.bias(attention.mask, dtype),
            *_cache_scales(graph, attention),
        ],
        attributes,
        domain=DOMAIN,
        num_outputs=3,
        name=f"{path}/GroupQueryAttention",
    )
    graph.append(node)
    mask = attention.mask.producer()
    merged = attention.output.producer()
    caches = [value.producer() for value in attention.present]
    for old, new in zip((attention.output, *attention.present), node.outputs, strict=True):
        take_over(old, new)
    remove_unused(graph, [n for n in (merged, *caches, mask) if n is not None])


def _quantization(scales: tuple[ir.Value, ir.Value]) -> dict[str, int | str]:
    kinds = ["PER_CHANNEL" if len(scale.shape or ()) else "PER_TENSOR" for scale in scales]
    return {"kv_cache_bit_width": 8, "k_quant_type": kinds[0], "v_quant_type": kinds[1]}


def _cache_scales(graph: ir.Graph, attention: CachedAttention) -> list[ir.Value | None]:
    """Return the inputs from the attention's sink on: none, or the scales in float32."""
    if attention.scales is None:
        return []
    inputs: list[ir.Value | None] = [None]
    for scale in attention.scales:
        array = ir.convenience.get_const_tensor(scale)
        assert array is not None, "QuantizeCache stores its scales"
        values = array.numpy().astype(np.float32)
        name = f"{scale.name}_float32"
        inputs.append(constant(graph, name, values if values.ndim else values.reshape(1)))
    return inputs


def _flat(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """Return a [batch, sequence, heads, width] value with its heads side by side."""
    split = value.producer()
    source = split.inputs[0] if split is not None and split.op_type == "Reshape" else None
    if source is not None and source.shape is not None and len(source.shape) == 3:
        return source
    shape_name = "castline.merged_heads"
    shape = graph.initializers.get(shape_name)
    if shape is None:
        shape = constant(graph, shape_name, np.array([0, 0, -1], np.int64))
    node = ir.node("Reshape", [value, shape], name=f"{name}/Reshape")
    node.outputs[0].name = f"{name}/Reshape_output_0"
    graph.append(node)
    return node.outputs[0]
