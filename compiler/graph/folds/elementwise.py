"""Follow scales through functions of single elements: kept, broadcast with a bias, or refused."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.labels import Labels, Met, end
from castline.compiler.graph.folds.parameters import FLOATS, parameter
from castline.compiler.graph.folds.sizes import Sizes
from castline.compiler.graph.folds.wording import activation, path, shared
from castline.compiler.quant.arrays import Array


def kept(node: ir.Node, labels: Labels, _sizes: Sizes) -> list[Array]:
    """Follow f where f(x / s) = f(x) / s for every s > 0."""
    found = labels.of[_input(node, 0)]
    if node.op_type == "Relu":
        labels.note(found, "ReLU")
    return [found]


def cast(node: ir.Node, labels: Labels, sizes: Sizes) -> list[Array]:
    """Follow a Cast to another float type; any other rounds too much."""
    if ir.DataType(node.attributes.get_int("to", 0)) not in FLOATS:
        return end(node, labels)
    return kept(node, labels, sizes)


def bent(node: ir.Node, labels: Labels, sizes: Sizes) -> list[Array]:
    """Refuse a function that is not linear, though its elements keep their places."""
    end(node, labels, f"{activation(node)} stands in between")
    return kept(node, labels, sizes) if node.inputs[0] in labels.of else []


def multiplied(node: ir.Node, labels: Labels, sizes: Sizes) -> list[Array]:
    """Follow a product: it is scaled once if one of its factors is, as behind a gate."""
    factors = [_input(node, i) for i in (0, 1)]
    others = [factor for factor in factors if factor not in labels.of]
    if others:
        product = _broadcast(node, labels, sizes)
        if product and others[0].producer() is not None:
            labels.note(product[0], "a gate")
        return product
    left, right = np.broadcast_arrays(*(labels.of[factor] for factor in factors))
    squared = (left == right) & labels.alive(left)
    labels.refuse(left[squared], f"{activation(node)} stands in between")
    twice = labels.alive(left) & labels.alive(right)
    labels.refuse(left[twice], f"{path(node)} multiplies it with what is scaled, too")
    found = np.where(labels.alive(right) | (left == 0), right, left)
    labels.note(found[(left != right) & labels.alive(found)], "a gate")
    return [found]


def divided(node: ir.Node, labels: Labels, sizes: Sizes) -> list[Array]:
    """Follow a quotient whose numerator alone is scaled."""
    if node.inputs[1] in labels.of:
        return end(node, labels)
    return _broadcast(node, labels, sizes)


def added(node: ir.Node, labels: Labels, sizes: Sizes) -> list[Array]:
    """Follow a sum with a bias, which is divided too, or of elements of the same scale."""
    scaled = [value for value in node.inputs if value in labels.of]
    if len(scaled) == 2:
        return _added_to_itself(node, labels)
    other = node.inputs[0] if node.inputs[1] in labels.of else node.inputs[1]
    bias = parameter(other, node)
    if bias is None:
        constant = sizes.known(other) is not None
        reason = f"{activation(node)} stands in between" if constant else _residual(node)
        end(node, labels, reason)
        return _broadcast(node, labels, sizes) if constant else []
    if bias.others:
        return end(node, labels, shared(bias.name, bias.others))
    found = _broadcast(node, labels, sizes)
    if found:
        reason = f"{bias.name} adds one number to channels of several scales"
        met = labels.meet(bias.shape, found[0], reason)
        labels.biases.append(Met(bias, tuple(range(len(bias.axes))), met))
    return found


def _added_to_itself(node: ir.Node, labels: Labels) -> list[Array]:
    left, right = np.broadcast_arrays(*(labels.of[_input(node, i)] for i in (0, 1)))
    alike = (left == right) | ~(labels.alive(left) | labels.alive(right))
    if alike.all():
        return [np.where(left == 0, right, left)]
    return end(node, labels, f"{path(node)} adds channels to one another, as rotary positions do")


def _residual(node: ir.Node) -> str:
    return f"the residual {path(node)} reads it"


def _broadcast(node: ir.Node, labels: Labels, sizes: Sizes) -> list[Array]:
    """Return the labels of the one scaled input in the shape of the output."""
    shape = sizes.shape(node.outputs[0])
    if shape is None:
        return end(node, labels)
    scaled = next(labels.of[value] for value in node.inputs if value in labels.of)
    return [np.broadcast_to(scaled, shape)]


def _input(node: ir.Node, position: int) -> ir.Value:
    value = node.inputs[position]
    assert value is not None, f"{node.op_type} has the input {position}"
    return value
