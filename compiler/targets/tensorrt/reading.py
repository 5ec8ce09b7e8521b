"""Read the graph of a saved ONNX file for TensorRT and leave its weights where they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from castline.compiler.targets.context import CAPACITY as NOTED_CAPACITY
from castline.errors import TargetError
from castline.exporters.names import CAPACITY
from castline.plugins.catalogue import PACKED_LINEARS, PLUGINS
from castline.plugins.linear_w4a16.op import LINEAR_W4A16
from castline.plugins.op import DOMAIN


def read_proto(model: Path) -> onnx.ModelProto:
    """Return the protobuf of `model`, its external tensors still references.

    A fixed cache has the capacity that its metadata says: TensorRT takes no open one.

    Raises:
        TargetError: the file is missing or is not ONNX, or a weight file that it names is missing.
    """
    try:
        proto = onnx.load(model, load_external_data=False)
    except FileNotFoundError as error:
        raise TargetError(f"{model}: no such file; write the lowered ONNX model first") from error
    except DecodeError as error:
        raise TargetError(f"{model}: not an ONNX file ({error}); export it again") from error
    missing = [name for name in external_files(proto) if not (model.parent / name).is_file()]
    if missing:
        raise TargetError(
            f"{model}: its weight file {', '.join(missing)} is missing from {model.parent}; "
            "keep the model and its weight files together, or export it again"
        )
    _set_capacity(proto)
    return proto


def _set_capacity(proto: onnx.ModelProto) -> None:
    noted = {entry.key: entry.value for entry in proto.metadata_props}.get(NOTED_CAPACITY)
    if noted is None:
        return
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    for size in (size for value in values for size in value.type.tensor_type.shape.dim):
        if size.dim_param == CAPACITY:
            size.dim_value = int(noted)


def external_files(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Return the weight files that `proto` refers to, relative to its folder, sorted."""
    return tuple(
        sorted(
            {
                entry.value
                for tensor in proto.graph.initializer
                for entry in tensor.external_data
                if entry.key == "location"
            }
        )
    )


def read_graph(model: Path) -> ir.Model:
    """Return the graph of `model` with inferred types; a tensor is read only when asked for.

    Raises:
        TargetError: as `read_proto`.
    """
    # Types come from the proto, so that rewrites that left a value untyped do not hide its dtype.
    typed = onnx.shape_inference.infer_shapes(read_proto(model))
    graph_model = ir.from_proto(typed)
    ir.external_data.set_base_dir(graph_model.graph, model.parent)
    return graph_model


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node: of the graph, of its subgraphs, and of the model's functions.

    The bodies of Castline's own ops are left out, since such an op is taken or refused as a whole.
    """
    yield from ir.traversal.RecursiveGraphIterator(model.graph)
    for function in model.functions.values():
        if function.domain != DOMAIN:
            yield from ir.traversal.RecursiveGraphIterator(function)


def low_bit_codes(node: ir.Node) -> ir.Value | None:
    """Return the codes that a node turns into weights, or multiplies by; None for another node.

    Those of plugins are packed, and of their own.
    """
    if node.op_type == "DequantizeLinear" and node.domain == "":
        return node.inputs[0]
    return node.inputs[1] if LINEAR_W4A16.is_op_of(node) else None


def packed_weight(node: ir.Node) -> ir.Value | None:
    """Return the packed bytes that the node of a plugin multiplies by; None for another node."""
    for op in PACKED_LINEARS:
        if op.is_op_of(node):
            return node.inputs[op.inputs.index("packed")]
    return None


def plugin_nodes(model: Path) -> dict[str, str]:
    """Return the op of every node of a saved model that a plugin computes, by the node's name.

    Raises:
        TargetError: as `read_proto`.
    """
    graph = ir.from_proto(read_proto(model)).graph
    return {node_name(node): node.op_type for node in graph if is_plugin(node)}


def is_plugin(node: ir.Node) -> bool:
    """Return whether a plugin computes the node."""
    return any(op.is_op_of(node) for op in PLUGINS)


def node_name(node: ir.Node) -> str:
    """Return the node's name, or what it computes when it has none."""
    return node.name or f"the node that computes {node.outputs[0].name}"
