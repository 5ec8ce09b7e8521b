"""Compute query, key and value with one MatMulNBits: one dispatch, and the input quantized once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.contrib import DOMAIN
from castline.compiler.passes.initializers import add_initializer
from castline.compiler.passes.replace import remove_unused


@dataclass(frozen=True)
class PackProjections:
    """The three projections of a GroupQueryAttention are stacked along N, in its packed form."""

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


class JoinedRows(ir.LazyTensor):
    """Tensors of one type that follow one another on their first axis."""

    def __init__(self, tensors: Sequence[ir.TensorProtocol], name: str) -> None:
        self.tensors = tuple(tensors)
        rows = sum(int(tensor.shape.numpy()[0]) for tensor in tensors)
        shape = ir.Shape([rows, *tensors[0].shape.numpy()[1:]])
        super().__init__(self._whole, dtype=tensors[0].dtype, shape=shape, name=name)

    def _whole(self) -> ir.TensorProtocol:
        array = np.concatenate([tensor.numpy() for tensor in self.tensors])
        return ir.Tensor(array, dtype=self.dtype, name=self.name)


def _projection(value: ir.Value | None) -> ir.Node | None:
    producer = value.producer() if value is not None else None
    if value is None or producer is None or producer.op_type != "MatMulNBits":
        return None
    return producer if len(value.consumers()) == 1 else None


def _declined(projections: list[ir.Node | None]) -> str | None:
    found = [node for node in projections if node is not None]
    if len(found) < len(projections):
        return "something stands between a projection and the attention"
    if len({node.inputs[0] for node in found}) > 1:
        return "the projections read different values"
    if len({_form(node) for node in found}) > 1:
        return "the projections are quantized in different ways"
    return None


def _form(node: ir.Node) -> tuple[object, ...]:
    attributes = tuple(node.attributes.get_int(a, 0) for a in ("K", "bits", "block_size"))
    return (*attributes, *(value is None for value in node.inputs[1:]))


def _pack(graph: ir.Graph, attention: ir.Node, projections: list[ir.Node]) -> None:
    path = str(attention.name).rpartition("/")[0]
    attributes = dict(projections[0].attributes.items())
    sizes = [node.attributes.get_int("N", 0) for node in projections]
    attributes["N"] = ir.AttrInt64("N", sum(sizes))
    inputs: list[ir.Value | None] = [projections[0].inputs[0]]
    for position in range(1, len(projections[0].inputs)):
        parts = [node.inputs[position] for node in projections]
        present = [part for part in parts if part is not None]
        inputs.append(_stacked(graph, present, f"{path}/qkv_proj") if present else None)
    packed = ir.Node(
        DOMAIN,
        "MatMulNBits",
        inputs,
        list(attributes.values()),
        name=f"{path}/qkv_proj/MatMulNBits",
    )
    output = packed.outputs[0]
    first = projections[0].outputs[0]
    output.name, output.type = f"{packed.name}_output_0", first.type
    if first.shape is not None:
        output.shape = ir.Shape([*first.shape[:2], sum(sizes)])
    graph.insert_before(attention, packed)
    attention.replace_input_with(0, output)
    attention.replace_input_with(1, None)
    attention.replace_input_with(2, None)
    remove_unused(graph, projections)


def _stacked(graph: ir.Graph, parts: list[ir.Value], path: str) -> ir.Value:
    tensors = [part.const_value for part in parts if part.const_value is not None]
    assert len(tensors) == len(parts), "weights of projections are initializers"
    part = str(parts[0].name).rpartition(".")[2]  # such as weight_quantized_packed, or bias
    name = f"{path.removeprefix('/').replace('/', '.')}.{part}"
    joined = JoinedRows(tensors, name)
    value = ir.Value(
        name=name, shape=joined.shape, type=ir.TensorType(joined.dtype), const_value=joined
    )
    return add_initializer(graph, value)
