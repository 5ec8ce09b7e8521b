"""Compute query, key and value with one product: one dispatch in place of three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.initializers import add_initializer
from castline.compiler.passes.replace import remove_unused
from castline.plugins.catalogue import INTEGER_LINEARS

_OF_TOKENS = ("codes", "scale", "zero_point")
"""What integer products read that does not belong to a projection."""


@dataclass(frozen=True)
class PackProjections:
    """The three projections of a GroupQueryAttention are stacked along N.

    They are MatMulNBits, whose packed form has N first, or our products of codes by codes, whose
    weights have it last.
    """

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Rewrite `model` in place; return the attentions left alone, with the reason."""
        declined: dict[str, str] = {}
        for node in list(model.graph):
            if node.op_type != "GroupQueryAttention" or node.inputs[1] is None:
                continue  # another node, or one whose projections are packed
            projections = [_projection(value) for value in node.inputs[:3]]
            reason = _declined(projections)
            if reason:
                declined[str(node.name)] = reason
                continue
            _pack(model.graph, node, [p for p in projections if p is not None])
        return declined


class JoinedTensors(ir.LazyTensor):
    """Tensors of one type that follow one another on one axis."""

    def __init__(self, tensors: Sequence[ir.TensorProtocol], axis: int, name: str) -> None:
        self.tensors, self.axis = tuple(tensors), axis
        sizes = list(tensors[0].shape.numpy())
        sizes[axis] = sum(int(tensor.shape.numpy()[axis]) for tensor in tensors)
        super().__init__(self._whole, dtype=tensors[0].dtype, shape=ir.Shape(sizes), name=name)

    def _whole(self) -> ir.TensorProtocol:
        array = np.concatenate([tensor.numpy() for tensor in self.tensors], axis=self.axis)
        return ir.Tensor(array, dtype=self.dtype, name=self.name)


def _projection(value: ir.Value | None) -> ir.Node | None:
    producer = value.producer() if value is not None else None
    if value is None or producer is None or len(value.consumers()) != 1:
        return None
    return producer if is_stackable(producer) else None


def is_stackable(node: ir.Node) -> bool:
    """Whether it is a product of the kinds that `stacked_product` takes."""
    return node.op_type == "MatMulNBits" or any(op.is_op_of(node) for op in INTEGER_LINEARS)


def _declined(projections: list[ir.Node | None]) -> str | None:
    found = [node for node in projections if node is not None]
    if len(found) < len(projections):
        return "something stands between a projection and the attention"
    return not_alike(found)


def not_alike(found: Sequence[ir.Node]) -> str | None:
    """Return why products cannot be stacked; None where they can."""
    if len({read_by(node) for node in found}) > 1:
        return "the projections read different values"
    if len({_form(node) for node in found}) > 1:
        return "the projections are quantized in different ways"
    weights = [value for node in found for value in _weights(node) if value is not None]
    if any(value.shape is None or not len(value.shape) for value in weights):
        return "each projection has one scale"
    return None


def read_by(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """Return what a product reads that does not belong to it alone: a value, or its codes."""
    return tuple(node.inputs[: _shared(node)])


def _form(node: ir.Node) -> tuple[object, ...]:
    attributes = tuple(node.attributes.get_int(a, 0) for a in ("K", "bits", "block_size"))
    return (node.op_type, *attributes, *(value and value.dtype for value in _weights(node)))


def _weights(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """Return the inputs that belong to one projection alone."""
    return tuple(node.inputs[_shared(node) :])


def _shared(node: ir.Node) -> int:
    op = next((op for op in INTEGER_LINEARS if op.is_op_of(node)), None)
    return 1 if op is None else sum(name in _OF_TOKENS for name in op.inputs)


def _pack(graph: ir.Graph, attention: ir.Node, projections: list[ir.Node]) -> None:
    path = str(attention.name).rpartition("/")[0]
    packed = stacked_product(projections, f"{path}/qkv_proj")
    graph.insert_before(attention, packed)
    attention.replace_input_with(0, packed.outputs[0])
    attention.replace_input_with(1, None)
    attention.replace_input_with(2, None)
    remove_unused(graph, projections)


def stacked_product(products: Sequence[ir.Node], path: str) -> ir.Node:
    """Return one product for several of one form that read one value, outputs behind one another.

    It is in no graph yet; its weights are among the initializers of that of `products`.
    """
    first = products[0]
    graph = first.graph
    assert isinstance(graph, ir.Graph), "products are nodes of a graph"
    axis = _axis(first)
    attributes = dict(first.attributes.items())
    sizes = [outputs_of(node) for node in products]
    if "N" in attributes:
        attributes["N"] = ir.AttrInt64("N", sum(sizes))
    inputs = list(read_by(first))
    for parts in zip(*map(_weights, products), strict=True):
        present = [part for part in parts if part is not None]
        inputs.append(_stacked(graph, present, axis, path) if present else None)
    packed = ir.Node(
        first.domain,
        first.op_type,
        inputs,
        list(attributes.values()),
        name=f"{path}/{first.op_type}",
    )
    _name_output(packed.outputs[0], packed, first.outputs[0], sum(sizes))
    return packed


def _axis(node: ir.Node) -> int:
    """Return on which axis of its weights the outputs of a product are."""
    return 0 if node.op_type == "MatMulNBits" else -1


def outputs_of(node: ir.Node) -> int:
    """Return how many channels a product gives, N."""
    weight = _weights(node)[0]
    assert weight is not None, "weights are not optional"
    assert weight.shape is not None, "initializers have shapes"
    return int(weight.shape.numpy()[_axis(node)])


def _name_output(output: ir.Value, packed: ir.Node, first: ir.Value, size: int) -> None:
    output.name, output.type = f"{packed.name}_output_0", first.type
    if first.shape is not None:
        output.shape = ir.Shape([*first.shape[:2], size])


def _stacked(graph: ir.Graph, parts: list[ir.Value], axis: int, path: str) -> ir.Value:
    tensors = [part.const_value for part in parts if part.const_value is not None]
    assert len(tensors) == len(parts), "weights of projections are initializers"
    part = str(parts[0].name).rpartition(".")[2]  # such as weight_quantized_packed, or bias
    name = f"{path.removeprefix('/').replace('/', '.')}.{part}"
    joined = JoinedTensors(tensors, axis, name)
    value = ir.Value(
        name=name, shape=joined.shape, type=ir.TensorType(joined.dtype), const_value=joined
    )
    return add_initializer(graph, value)
