"""Find the weights that a graph holds, in whatever form a target lowered them to."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from castline.compiler.importing.decoding import weights_of, weights_of_packed, weights_of_plugin
from castline.compiler.passes.pack_projections import JoinedTensors
from castline.compiler.passes.promised_experts import entries
from castline.compiler.quant.arrays import Array
from castline.plugins.catalogue import PACKED_LINEARS
from castline.plugins.linear_w4a16.op import LINEAR_W4A16
from castline.plugins.linear_w8a8.op import LINEAR_W8A8, LINEAR_W8A8_ASYMMETRIC
from castline.plugins.op import PluginOp

_OF_PLUGIN_WEIGHTS = (
    "packed",
    "scales",
    "zero_points",
    "offsets",
    "weight_scale",
    "weight_zero_point",
)
Matrices: TypeAlias = Callable[[], Iterator[Array]]
"""Reads float32 [K, N]: one, or those of experts in order, each when it is due."""

_ENDING = re.compile(r"(?P<expert>\.\d+)?(_packed)?$")
_FORMS = re.compile(r"(_quantized)?(_signed)?$")


def held_weights(model: ir.Model, names: Collection[str]) -> dict[str, Matrices]:
    """Return the way to each of the weights `names` of the checkpoint as `model` holds it.

    `model` is lowered, and its initializers are promises still. What the graph does not multiply by
    is left out.
    """
    held: dict[str, dict[int, Matrices]] = {}
    for node in model.graph:
        for stored_as, matrices in _weights(node):
            name, expert = _name(stored_as, names)
            if name in names:
                held.setdefault(name, {})[expert] = matrices
    return {name: partial(_in_order, parts) for name, parts in held.items()}


def _in_order(parts: Mapping[int, Matrices]) -> Iterator[Array]:
    return chain.from_iterable(parts[expert]() for expert in sorted(parts))


def _name(stored_as: str, names: Collection[str]) -> tuple[str, int]:
    """Return the checkpoint's name of a weight, and which expert of a stack it is, or 0."""
    whole = _FORMS.sub("", stored_as.removesuffix("_packed"))
    if whole in names:
        return whole, 0
    ending = _ENDING.search(stored_as)
    assert ending is not None, "it matches nothing, too"
    expert = ending["expert"] or ".0"
    return _FORMS.sub("", stored_as[: ending.start()]), int(expert[1:])


def _weights(node: ir.Node) -> Iterator[tuple[str, Matrices]]:
    """Yield what a node multiplies by: the name of the initializer and the way to its values."""
    if node.op_type == "MatMul":
        yield from _of_matmul(node.inputs[1])
    elif LINEAR_W4A16.is_op_of(node):
        yield _of(_tensors(node.inputs[1:]), _with_offsets)
    elif LINEAR_W8A8.is_op_of(node) or LINEAR_W8A8_ASYMMETRIC.is_op_of(node):
        yield _of(_tensors(node.inputs[-2:]), weights_of)
    elif (plugin := next((op for op in PACKED_LINEARS if op.is_op_of(node)), None)) is not None:
        yield _of_plugin(node, plugin)
    elif node.op_type == "MatMulIntegerToFloat":
        for tensors in _apart(_tensors(_at(node, 1, 3, 5))):
            yield _of(tensors, weights_of)
    elif node.op_type == "MatMulNBits":
        yield from _of_matmul_nbits(node)
    elif node.op_type == "QMoE":
        bits = node.attributes.get_int("expert_weight_bits", 4)
        yield _of(_tensors(_at(node, 2, 3, 11)), partial(_gates_and_ups, bits))
        yield _of(_tensors(_at(node, 5, 6, 12)), partial(_packed, bits))


def _of_matmul(matrix: ir.Value | None) -> Iterator[tuple[str, Matrices]]:
    producer = matrix.producer() if matrix is not None else None
    transposed = producer is not None and producer.op_type == "Transpose"
    if producer is not None and transposed:
        matrix = producer.inputs[0]
        producer = matrix.producer() if matrix is not None else None
    if producer is not None and producer.op_type == "DequantizeLinear":
        codes = producer.inputs[0]
        if codes is not None and codes.is_initializer():
            yield _of(_tensors(producer.inputs), _by_outputs if transposed else weights_of)
    elif matrix is not None and matrix.is_initializer():
        yield _of(_tensors([matrix]), _transposed if transposed else _plain)


def _of_matmul_nbits(node: ir.Node) -> Iterator[tuple[str, Matrices]]:
    decode = partial(_packed, node.attributes.get_int("bits", 4))
    for tensors in _apart(_tensors(_at(node, 1, 2, 3))):
        name = str(tensors[0].name)
        yield name, _with_offset(node, name, partial(_matrix, tensors, decode))


def _apart(parts: Sequence[ir.TensorProtocol]) -> Iterator[Sequence[ir.TensorProtocol]]:
    """Yield the tensors of each weight of a product: of its one, or of those that are joined."""
    joined = [part.tensors for part in parts if isinstance(part, JoinedTensors)]
    yield from zip(*joined, strict=True) if joined else [parts]


def _of_plugin(node: ir.Node, op: PluginOp) -> tuple[str, Matrices]:
    given = dict(zip(op.inputs, node.inputs, strict=True))
    names = [name for name in _OF_PLUGIN_WEIGHTS if name in given]
    tensors = dict(zip(names, _tensors([given[name] for name in names]), strict=True))
    k, n = (node.attributes.get_int(size, 0) for size in ("k", "n"))

    def matrices() -> Iterator[Array]:
        yield weights_of_plugin(n, k, {name: tensor.numpy() for name, tensor in tensors.items()})

    return str(tensors["packed"].name), matrices


def _with_offset(node: ir.Node, name: str, matrices: Matrices) -> Matrices:
    """Add the offsets of groups, which multiply the sums of what is read in a MatMul of its own."""
    graph = node.graph
    assert isinstance(graph, ir.Graph), "products are nodes of the graph"
    offsets = graph.initializers.get(f"{name.removesuffix('_quantized_packed')}_offset")
    if offsets is None:
        return matrices
    (tensor,) = _tensors([offsets])

    def shifted() -> Iterator[Array]:
        for weights in matrices():
            rows = tensor.numpy().astype(np.float32)
            yield weights + rows.repeat(len(weights) // len(rows), axis=0)

    return shifted


def _of(parts: Sequence[ir.TensorProtocol], decode: Callable[..., Array]) -> tuple[str, Matrices]:
    stacked = len(parts[0].shape.numpy()) == 3
    return str(parts[0].name), partial(_experts if stacked else _matrix, parts, decode)


def _matrix(parts: Sequence[ir.TensorProtocol], decode: Callable[..., Array]) -> Iterator[Array]:
    yield decode(*(part.numpy() for part in parts))


def _experts(parts: Sequence[ir.TensorProtocol], decode: Callable[..., Array]) -> Iterator[Array]:
    for expert in zip(*(entries(part) for part in parts), strict=True):
        yield decode(*expert)


def _at(node: ir.Node, *places: int) -> list[ir.Value | None]:
    return [node.inputs[place] for place in places if place < len(node.inputs)]


def _tensors(values: Sequence[ir.Value | None]) -> list[ir.TensorProtocol]:
    """Return the tensors of stored values, also of those that are cast as they are read."""
    tensors = []
    for value in values:
        producer = value.producer() if value is not None else None
        stored = value if producer is None else producer.inputs[0]
        if stored is None:
            continue
        assert stored.const_value is not None, f"{stored.name} is no initializer"
        tensors.append(stored.const_value)
    return tensors


def _plain(weights: Array) -> Array:
    return weights.astype(np.float32)


def _transposed(weights: Array) -> Array:
    return weights.T.astype(np.float32)


def _by_outputs(codes: Array, scales: Array, zero_points: Array | None = None) -> Array:
    """Return the weights of codes [N, K], whose groups are along the last axis."""
    zeros = None if zero_points is None else zero_points.T
    return weights_of(codes.T, scales.T, zeros)


def _with_offsets(codes: Array, scales: Array, offsets: Array) -> Array:
    return weights_of(codes, scales, offsets=offsets)


def _packed(bits: int, codes: Array, scales: Array, zero_points: Array | None = None) -> Array:
    return weights_of_packed(codes, scales, zero_points, bits)


def _gates_and_ups(
    bits: int, codes: Array, scales: Array, zero_points: Array | None = None
) -> Array:
    """Return [K, N] with all gates first; QMoE has the outputs gate 0, up 0, gate 1, up 1, ..."""
    alternating = weights_of_packed(codes, scales, zero_points, bits)
    return np.concatenate([alternating[:, 0::2], alternating[:, 1::2]], axis=1)
