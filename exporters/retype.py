"""Turn a float32 decoder graph into float16 or bfloat16, with positions left in float32."""

from __future__ import annotations

import onnx_ir as ir

from castline.exporters import names

_PLAIN_INPUTS = (names.INPUT_IDS, names.ATTENTION_MASK, names.POSITION_IDS)

_FLOAT = ir.DataType.FLOAT


def retype(model: ir.Model, dtype: ir.DataType) -> None:
    """Give everything that depends on a weight or a cache the type `dtype`, in place.

    Tracing in half precision instead would hide the rotary pattern from its fusion. What depends on
    positions alone (angles, their cosine and sine) is computed in float32 as Hugging Face does, and
    cast where it meets the rest.
    """
    if dtype == _FLOAT:
        return
    graph = model.graph
    lowered = {v for v in graph.inputs if v.name not in _PLAIN_INPUTS and v.dtype in (_FLOAT, None)}
    casts: dict[ir.Value, ir.Value] = {}
    for value in lowered:
        value.dtype = dtype
    for node in list(graph):
        data = [v for v in node.inputs if v is not None]
        if not any(v in lowered for v in data) or node.op_type in ("Shape", "Size"):
            continue
        for position, value in enumerate(node.inputs):
            if value is not None and value not in lowered and value.dtype in (_FLOAT, None):
                node.replace_input_with(position, _cast(graph, node, value, dtype, casts))
        for value in node.outputs:
            if node.op_type == "Cast" and value.dtype != _FLOAT:
                continue
            if value.dtype in (_FLOAT, None):
                value.dtype = dtype
                lowered.add(value)
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == _FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", dtype)
    graph.sort()


def _cast(
    graph: ir.Graph,
    user: ir.Node,
    value: ir.Value,
    dtype: ir.DataType,
    casts: dict[ir.Value, ir.Value],
) -> ir.Value:
    if value not in casts:
        producer = value.producer()
        node = ir.node("Cast", [value], {"to": dtype}, name=_cast_name(value, user))
        cast = node.outputs[0]
        cast.name, cast.shape, cast.type = (
            f"{node.name}_output_0",
            value.shape,
            ir.TensorType(dtype),
        )
        if producer is None:
            graph.insert_before(user, node)
        else:
            graph.insert_after(producer, node)
        casts[value] = cast
    return casts[value]


def _cast_name(value: ir.Value, user: ir.Node) -> str:
    producer = value.producer()
    source = user if producer is None else producer
    return f"{source.name}/Cast"
