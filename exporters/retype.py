"""Turn a float32 decoder graph into float16 or bfloat16, with positions left in float32."""

from __future__ import annotations

import onnx_ir as ir

from castline.exporters import names

_FLOAT = ir.DataType.FLOAT
_SIZES = ("Shape", "Size")


def retype(model: ir.Model, dtype: ir.DataType) -> None:
    """Give everything that depends on a weight or a cache the type `dtype`, in place.

    Tracing in half precision instead would hide the rotary pattern from its fusion. What depends on
    positions alone (angles, their cosine and sine) is computed in float32 as Hugging Face does, and
    cast where it meets the rest.
    """
    if dtype == _FLOAT:
        return
    graph = model.graph
    lowered = {v for v in graph.inputs if v.name not in names.TOKEN_INPUTS and _is_float(v)}
    for value in lowered:
        value.dtype = dtype
    casts: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type in _SIZES or not any(value in lowered for value in node.inputs):
            continue
        for position, read in enumerate(node.inputs):
            if read is not None and read not in lowered and _is_float(read):
                node.replace_input_with(position, _lowered(graph, node, read, dtype, casts))
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == _FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", dtype)
        for made in node.outputs:
            if _is_float(made):
                made.dtype = dtype
                lowered.add(made)
    graph.sort()


def _is_float(value: ir.Value) -> bool:
    return value.dtype in (_FLOAT, None)  # the rotary fusion leaves its values without a type


def _lowered(
    graph: ir.Graph,
    user: ir.Node,
    value: ir.Value,
    dtype: ir.DataType,
    casts: dict[ir.Value, ir.Value],
) -> ir.Value:
    """Return a float32 value in `dtype`, cast once for all who read it."""
    if value not in casts:
        producer = value.producer()
        node = ir.node("Cast", [value], {"to": dtype}, name=f"{(producer or user).name}/Cast")
        if producer is None:
            graph.insert_before(user, node)
        else:
            graph.insert_after(producer, node)
        casts[value] = node.outputs[0]
        casts[value].name = f"{node.name}_output_0"
        casts[value].shape, casts[value].type = value.shape, ir.TensorType(dtype)
    return casts[value]
