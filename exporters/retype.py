"""Turn a float32 graph into float16 or bfloat16, with positions left in float32."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from castline.exporters import names

_FLOAT = ir.DataType.FLOAT
_SIZES = ("Shape", "Size")
# Of the largest number, so that a score added to a mask does not carry it over.
_CLIPPED_TO = 0.5


def retype(model: ir.Model, dtype: ir.DataType) -> None:
    """Give everything that depends on a weight or a cache the type `dtype`, in place.

    Tracing in half precision instead would hide the rotary pattern from its fusion. What depends on
    positions alone (angles, their cosine and sine) is computed in float32 as Hugging Face does, and
    cast where it meets the rest. Numbers too large for `dtype` are clipped there: a mask of
    float32's smallest number would become -inf, and the probabilities of a row of padding NaN.
    """
    if dtype == _FLOAT:
        return
    graph = model.graph
    lowered = {v for v in graph.inputs if v.name not in names.TOKEN_INPUTS and _is_float(v)}
    for value in lowered:
        value.dtype = dtype
    casts = _Casts(graph, dtype)
    for node in list(graph):
        if node.op_type in _SIZES or not any(value in lowered for value in node.inputs):
            continue
        for position, read in enumerate(node.inputs):
            if read is not None and read not in lowered and _is_float(read):
                node.replace_input_with(position, casts.of(read, node))
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == _FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", dtype)
        for made in node.outputs:
            if _is_float(made):
                made.dtype = dtype
                lowered.add(made)
    graph.sort()


def _is_float(value: ir.Value) -> bool:
    return value.dtype in (_FLOAT, None)  # the rotary fusion leaves its values without a type


class _Casts:
    """The casts from float32 in a graph, one for all who read a value."""

    def __init__(self, graph: ir.Graph, dtype: ir.DataType) -> None:
        self._graph = graph
        self._dtype = dtype
        self._largest = float(ml_dtypes.finfo(dtype.numpy()).max)
        self._too_large = _holding_more_than(self._largest, graph)
        self._made: dict[ir.Value, ir.Value] = {}

    def of(self, value: ir.Value, user: ir.Node) -> ir.Value:
        """Return a float32 value in the lower type, within its range."""
        if value not in self._made:
            read = self._clipped(value, user) if value in self._too_large else value
            node = ir.node("Cast", [read], {"to": self._dtype})
            self._made[value] = self._insert(node, read, user, self._dtype)
        return self._made[value]

    def _clipped(self, value: ir.Value, user: ir.Node) -> ir.Value:
        limit = self._largest * _CLIPPED_TO
        bounds = [self._constant("lowest", -limit), self._constant("highest", limit)]
        return self._insert(ir.node("Clip", [value, *bounds]), value, user, _FLOAT)

    def _constant(self, name: str, number: float) -> ir.Value:
        name = f"{name}_{self._dtype.name.lower()}"
        if name not in self._graph.initializers:
            tensor = ir.tensor(np.float32(number), name=name)
            self._graph.register_initializer(
                ir.Value(
                    name=name, shape=ir.Shape([]), type=ir.TensorType(_FLOAT), const_value=tensor
                )
            )
        return self._graph.initializers[name]

    def _insert(self, node: ir.Node, read: ir.Value, user: ir.Node, dtype: ir.DataType) -> ir.Value:
        """Put a node behind what makes the value it reads; return its output, of the same shape."""
        producer = read.producer()
        if producer is None:
            self._graph.insert_before(user, node)
        else:
            self._graph.insert_after(producer, node)
        node.name = f"{(producer or user).name}/{node.op_type}"
        made = node.outputs[0]
        made.name = f"{node.name}_output_0"
        made.shape, made.type = read.shape, ir.TensorType(dtype)
        return made


def _holding_more_than(largest: float, graph: ir.Graph) -> set[ir.Value]:
    """Return the constants with a finite number beyond `largest`, and the floats made of them."""
    found = {value for value in graph.initializers.values() if _exceeds(value, largest)}
    for node in graph:
        if any(value in found for value in node.inputs):
            found.update(value for value in node.outputs if _is_float(value))
    return found


def _exceeds(value: ir.Value, largest: float) -> bool:
    if value.const_value is None or not _is_float(value):
        return False
    array = value.const_value.numpy()
    return bool((np.isfinite(array) & (np.abs(array) > largest)).any())
