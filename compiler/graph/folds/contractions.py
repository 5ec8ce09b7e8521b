"""Follow scales through sums over tokens or experts, such as attention's."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.labels import Labels, end
from castline.compiler.graph.folds.sizes import Sizes
from castline.compiler.graph.folds.wording import path
from castline.compiler.quant.arrays import Array


def reduced(node: ir.Node, labels: Labels, sizes: Sizes) -> list[Array]:
    """Follow a sum or mean of elements of one scale."""
    scaled = labels.of.get(node.inputs[0]) if node.inputs[0] is not None else None
    axes = sizes.known(node.inputs[1]) if len(node.inputs) > 1 else None
    if scaled is None or axes is None or axes.size == 0:
        return end(node, labels)
    over = tuple(int(axis) for axis in axes.ravel())
    lowest = scaled.min(axis=over, keepdims=True)
    if (scaled != lowest).any():
        return end(node, labels, f"{path(node)} sums channels of several scales")
    return [lowest if node.attributes.get_int("keepdims", 1) else lowest.squeeze(over)]


def mixed(node: ir.Node, labels: Labels, sizes: Sizes) -> list[Array]:
    """Follow a MatMul of two activations that mixes tokens, as probabilities mix values."""
    left, right = node.inputs
    shape = sizes.shape(node.outputs[0])
    if left in labels.of or right not in labels.of or shape is None:
        return end(node, labels, f"{path(node)} contracts its channels with another activation's")
    return _of_any_token(node, labels.of[right], shape, labels)


def attended(node: ir.Node, labels: Labels, sizes: Sizes) -> list[Array]:
    """Follow values; query heads of a group read one head of values, so they share its scales."""
    for position, value in enumerate(node.inputs):
        if position != 2 and value in labels.of:
            labels.refuse(labels.of[value], f"{path(node)} scores tokens by it")
    values = node.inputs[2]
    shape = sizes.shape(node.outputs[0])
    if values not in labels.of or shape is None or len(node.inputs) > 4:
        return end(node, labels)
    scaled = labels.of[values]
    return _of_any_token(node, scaled.repeat(shape[1] // scaled.shape[1], axis=1), shape, labels)


def _of_any_token(
    node: ir.Node, scaled: Array, shape: tuple[int, ...], labels: Labels
) -> list[Array]:
    """Return labels [..., S, D] of values [..., T, D] whose labels are the same for every T."""
    channel = scaled[..., :1, :]
    if (scaled != channel).any():
        return end(node, labels, f"{path(node)} sums channels of several scales")
    labels.note(channel, "attention")
    return [np.broadcast_to(channel, shape)]
