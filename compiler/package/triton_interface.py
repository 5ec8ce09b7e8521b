"""Read from a graph what Triton must know of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx

from castline.compiler.package.triton_config import TritonTensor, WarmUp
from castline.errors import OutputError
from castline.exporters import names

DATA_TYPES: dict[int, str] = {
    onnx.TensorProto.BOOL: "TYPE_BOOL",
    onnx.TensorProto.INT8: "TYPE_INT8",
    onnx.TensorProto.INT32: "TYPE_INT32",
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.BFLOAT16: "TYPE_BF16",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
}
# Tokens of a warm-up: few, as a warm-up is to load kernels and to allocate, and not to measure.
_NEW, _PAST = 8, 8


def interface_from(model: Path) -> tuple[tuple[TritonTensor, ...], tuple[TritonTensor, ...]]:
    """Return the inputs and outputs of an ONNX file, whose weights are not read.

    Raises OutputError for one without a batch in front, or of a type that Triton does not have.
    """
    graph = onnx.load(model, load_external_data=False).graph
    inputs, outputs = (
        tuple(_tensor(value, model) for value in values) for values in (graph.input, graph.output)
    )
    return inputs, outputs


def is_cached(inputs: Iterable[TritonTensor]) -> bool:
    """Return whether a model takes the cache of past tokens."""
    return any(tensor.name.startswith(names.PAST_PREFIX) for tensor in inputs)


def warm_ups(inputs: tuple[TritonTensor, ...]) -> tuple[WarmUp, ...]:
    """Return a prompt and, where there is a cache, a further token."""
    if not is_cached(inputs):
        return (_warm_up("encode", inputs, new=_NEW, past=0),)
    return (
        _warm_up("prefill", inputs, new=_NEW, past=_PAST),
        _warm_up("decode", inputs, new=1, past=_PAST),
    )


def warm_up_contents(warm_up: WarmUp) -> Iterator[tuple[str, bytes]]:
    """Yield each file of a warm-up and what it holds: ones, so that no token is padding."""
    for tensor, file in warm_up.files.items():
        yield file, np.ones(warm_up.shapes[tensor], np.int64).tobytes()


def _tensor(value: onnx.ValueInfoProto, model: Path) -> TritonTensor:
    tensor = value.type.tensor_type
    first, *rest = tensor.shape.dim or [onnx.TensorShapeProto.Dimension(dim_value=1)]
    if first.HasField("dim_value"):
        raise OutputError(
            f"{model}: {value.name} has no open first dimension, so Triton cannot serve it in rows."
        )
    if tensor.elem_type not in DATA_TYPES:
        found = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise OutputError(
            f"{model}: {value.name} is {found}; Triton takes {', '.join(DATA_TYPES.values())}."
        )
    dims = tuple(one.dim_value if one.HasField("dim_value") else -1 for one in rest)
    return TritonTensor(value.name, DATA_TYPES[tensor.elem_type], dims)


def _warm_up(name: str, inputs: tuple[TritonTensor, ...], *, new: int, past: int) -> WarmUp:
    shapes = {}
    for tensor in inputs:
        if tensor.name.startswith(names.PAST_PREFIX):
            size = past
        else:
            size = new + past if tensor.name == names.ATTENTION_MASK else new
        shapes[tensor.name] = tuple(size if dim < 0 else dim for dim in tensor.dims)
    masked = names.ATTENTION_MASK in shapes
    files = {names.ATTENTION_MASK: f"{name}_{names.ATTENTION_MASK}"} if masked else {}
    return WarmUp(name, shapes, files)
