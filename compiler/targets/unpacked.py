"""Unpack the weights of a saved model on disk, before ONNX Runtime loads it.

ONNX Runtime would unpack them while it loads, and hold what every step of every weight puts out
until the end: 7 bytes a weight.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx.inliner import inline_local_functions
from onnx_ir.passes.common import RemoveUnusedNodesPass

from castline.compiler.graph.evaluate import ancestors
from castline.compiler.targets.write import DATA, INLINE, append_tensor, disk_errors
from castline.plugins.catalogue import PACKED

# /tmp is memory on many systems, and these are the weights of a model.
_ON_DISK = Path("/var/tmp")
_ADVICE = "Make room, or name a folder elsewhere in TMPDIR."
# It is fused with the product that reads it, and would be four times as large.
_KEPT = "DequantizeLinear"
# Bytes that ONNX Runtime holds for a stored element that it widens itself as it loads, all steps
# together: two codes of groups in two levels (decision 14), a code and its zero-point, a code.
_OF_CODES_IN_A_BYTE, _OF_CODE_AND_ZERO_POINT, _OF_CODE = 14, 9, 1
_LOG_FATAL_ONLY = 4  # what it refuses reaches the caller as an exception
_REFERENCES = "session.model_external_initializers_file_folder_path"


@contextmanager
def unpacked(model: Path) -> Iterator[Path]:
    """Give a copy of a saved model with unpacked weights, which goes when the block is left.

    A session that was made of it may stay: Linux keeps the pages that it maps. Raises OutputError
    where the disk is full, and what ONNX Runtime raises where it cannot compute the weights.
    """
    with tempfile.TemporaryDirectory(prefix="castline-unpacked-", dir=scratch_folder()) as folder:
        yield write_unpacked(model, Path(folder))


def write_unpacked(model: Path, folder: Path) -> Path:
    """Write a copy of a saved model into `folder`, and return its path.

    Functions are inlined, and what depends on weights alone is computed by ONNX Runtime from the
    file's own nodes, a value at a time; DequantizeLinear stays. Peak memory is about that of the
    steps of one weight.
    """
    proto = onnx.load(model, load_external_data=False)
    needed = unpacked_bytes(ir.from_proto(proto))
    copy = ir.from_proto(inline_local_functions(proto))
    with (
        disk_errors(folder, needed, _ADVICE),
        (folder / DATA).open("wb", buffering=0) as file,
    ):
        _compute_weights(copy, model.parent, file, folder)
        RemoveUnusedNodesPass()(copy)
        _copy_others(copy, model.parent, file, folder)
        onnx.save(ir.to_proto(copy), folder / model.name)
    return folder / model.name


def unpacked_bytes(model: ir.Model) -> int:
    """Return what the weights of a model take, those of packed ops unpacked.

    MatMulInteger reads bytes, so 4-bit weights of integer products are widened to them.
    """
    tensors = (value.const_value for value in model.graph.initializers.values())
    total = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    for node in model.graph:
        op = next((op for op in PACKED.values() if op.is_op_of(node)), None)
        packed = None if op is None else node.inputs[op.inputs.index("packed")]
        if packed is not None and packed.const_value is not None:
            attributes = node.attributes
            weights = attributes["k"].as_int() * attributes["n"].as_int()
            total += weights - packed.const_value.nbytes
    return total


def loading_bytes(model: ir.Model) -> int:
    """Return what the weights of a model take at the most while ONNX Runtime loads it."""
    return unpacked_bytes(model) + sum(map(_widened_bytes, model.graph))


def _widened_bytes(node: ir.Node) -> int:
    stored = node.inputs[0].const_value if node.op_type == "Cast" and node.inputs[0] else None
    if stored is None or stored.dtype.bitwidth > 8:
        return 0
    if node.attributes.get_int("to", 0) != ir.DataType.INT32:
        return stored.size * (_OF_CODE if stored.dtype.bitwidth < 8 else 0)
    in_bytes = stored.dtype == ir.DataType.UINT8
    return stored.size * (_OF_CODES_IN_A_BYTE if in_bytes else _OF_CODE_AND_ZERO_POINT)


def scratch_folder() -> Path | None:
    """Return where large files may go for a while; None leaves it to Python, which asks TMPDIR."""
    return _ON_DISK if "TMPDIR" not in os.environ and os.access(_ON_DISK, os.W_OK) else None


def _compute_weights(model: ir.Model, weights: Path, file: FileIO, folder: Path) -> None:
    """Put what ONNX Runtime computes of weights alone in the place of what computes it."""
    constant = _constant_nodes(model.graph)
    for value in _read_elsewhere(constant):
        tensor = _computed(_part(model, value, constant), weights)
        name = f"{value.name}.unpacked"
        if tensor.nbytes > INLINE:
            tensor = append_tensor(file, name, tensor, folder)
        stored = ir.Value(
            name=name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        model.graph.initializers.add(stored)
        value.replace_all_uses_with(stored)


def _constant_nodes(graph: ir.Graph) -> dict[ir.Node, int]:
    """Return the place of every node that depends on initializers and constants alone."""
    constant: dict[ir.Node, int] = {}
    for place, node in enumerate(graph):
        if node.op_type == _KEPT or _has_subgraph(node):
            continue
        read = [value for value in node.inputs if value is not None]
        if node.op_type == "Constant" or (
            read and all(_is_stored(value) or value.producer() in constant for value in read)
        ):
            constant[node] = place
    return constant


def _has_subgraph(node: ir.Node) -> bool:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attributes.values())


def _is_stored(value: ir.Value) -> bool:
    return value.is_initializer() and not value.is_graph_input()


def _read_elsewhere(constant: dict[ir.Node, int]) -> list[ir.Value]:
    """Return what other nodes read of values that depend on initializers."""
    return [
        value
        for node in constant
        for value in node.outputs
        if any(reader not in constant for reader in value.consumers())
        and any(_is_stored(source) for source in ancestors(value))
    ]


def _computed(part: onnx.ModelProto, weights: Path) -> ir.TensorProtocol:
    """Let ONNX Runtime compute the output of a part; what it refers to is in the folder `weights`.

    Its bytes are read where they lie, since NumPy has no INT4.
    """
    import onnxruntime  # noqa: PLC0415 - optional; whoever loads a model has found it

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY
    options.intra_op_num_threads = 1
    # Each step runs once: to fold them beforehand would hold all of them.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry(_REFERENCES, str(weights.absolute()))
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (found,) = session.run_with_ort_values(None, {})
    content = ctypes.string_at(found.data_ptr(), found.tensor_size_in_bytes())
    array, dtype = np.frombuffer(content, np.uint8), ir.DataType(found.element_type())
    if dtype.bitwidth < array.itemsize * 8:
        return ir.PackedTensor(array, dtype, shape=found.shape())
    return ir.Tensor(array.view(dtype.numpy()).reshape(found.shape()), dtype)


def _part(model: ir.Model, value: ir.Value, constant: dict[ir.Node, int]) -> onnx.ModelProto:
    """Return the model that computes one value, its weights references as they are."""
    sources = ancestors(value)
    nodes = [node for source in sources if (node := source.producer()) is not None]
    stored = (source.const_value for source in sources if _is_stored(source))
    graph = onnx.helper.make_graph(
        [ir.to_proto(node) for node in sorted(set(nodes), key=constant.__getitem__)],
        "part",
        [],
        [onnx.ValueInfoProto(name=value.name)],
        [ir.to_proto(tensor) for tensor in stored if tensor is not None],
    )
    opsets = [onnx.helper.make_opsetid(*opset) for opset in model.graph.opset_imports.items()]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)


def _copy_others(model: ir.Model, weights: Path, file: FileIO, folder: Path) -> None:
    """Copy what stays as it is in the folder `weights`: ONNX Runtime follows no link out of its."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor) or tensor.base_dir == folder:
            continue
        # By its whole path: below a base folder, onnx_ir refuses a file that has two names.
        whole = ir.ExternalTensor(
            weights / tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name,
        )
        value.const_value = append_tensor(file, str(value.name), whole, folder)
