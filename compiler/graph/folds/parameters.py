"""Recognize the stored tensors that a fold may change: matrices, gains and biases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.site import Edit
from castline.compiler.quant.arrays import Array
from castline.exporters.promise import PromisedWeight

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Parameter:
    """A stored tensor, as a value of the graph shows it: transposed, cast, with axes put in."""

    initializer: ir.Value
    axes: tuple[int | None, ...]
    """For every axis of the shown value, that of the initializer; None for an axis put in."""
    offset: float
    """What is added to it: 1 for a gain of (1 + w)."""
    others: tuple[ir.Node, ...]
    """The nodes that read it beside the one it was recognized for."""

    @property
    def name(self) -> str:
        return str(self.initializer.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the shown value."""
        assert self.initializer.shape is not None, "initializers have shapes"
        stored = self.initializer.shape.numpy()
        return tuple(1 if axis is None else stored[axis] for axis in self.axes)

    def edit(self, index: Array, axes: tuple[int, ...], *, multiply: bool) -> Edit:
        """Return the edit of the stored tensor for an `index` over `axes` of the shown value."""
        promise = self.initializer.const_value
        kept = []  # (axis of the stored tensor, axis of the index)
        for position, axis in enumerate(axes):
            shown = self.axes[axis]
            if shown is None or _constant(index, position):
                index = index.take([0], position)
                continue
            stored = promise.axes[shown] if isinstance(promise, PromisedWeight) else shown
            kept.append((stored, position))
        order = [position for _, position in sorted(kept)]
        rest = [position for position in range(index.ndim) if position not in order]
        ordered = index.transpose(order + rest).reshape([index.shape[i] for i in order])
        return Edit(self.name, tuple(sorted(a for a, _ in kept)), ordered, multiply, self.offset)


@dataclass(frozen=True)
class StoredMatrix:
    """A linear: a node that multiplies its first input [..., M, K] with a stored matrix."""

    node: ir.Node
    weight: Parameter
    k: int
    """Axis of the shown weight that is contracted."""
    n: int
    """Axis that becomes the output's last. Any others are experts, one matrix each."""

    @property
    def batch(self) -> tuple[int, ...]:
        """The axes before the matrix: experts."""
        return tuple(range(len(self.weight.axes) - 2))

    def sizes(self, *axes: int) -> tuple[int, ...]:
        return tuple(self.weight.shape[axis] for axis in axes)


def parameter(value: ir.Value | None, reader: ir.Node) -> Parameter | None:
    """Return the stored tensor that `value` shows to `reader`; None if it is computed or scalar."""
    axes: list[int | None] | None = None
    others: list[ir.Node] = []
    offset = 0.0
    steps: list[ir.Node] = []
    while value is not None:
        others += [node for node in value.consumers() if node is not reader]
        if value.is_initializer():
            break
        node = value.producer()
        step = None if node is None else _shown_through(node)
        if node is None or step is None:
            return None
        value, added = step
        offset += added
        steps.append(node)
        reader = node
    if value is None or value.dtype not in FLOATS or value.shape is None or not len(value.shape):
        return None
    axes = list(range(len(value.shape)))
    for node in reversed(steps):
        axes = _axes_after(node, axes)
    return Parameter(value, tuple(axes), offset, tuple(others))


def stored_matrix(node: ir.Node) -> StoredMatrix | None:
    """Return the linear that a node is; None if it is none, or has its weight on the left."""
    if node.domain != "" or node.op_type not in ("MatMul", "Gemm"):
        return None
    if node.attributes.get_int("transA", 0) or parameter(node.inputs[0], node) is not None:
        return None
    weight = parameter(node.inputs[1], node)
    if weight is None or len(weight.axes) < 2 or weight.offset:
        return None
    rank = len(weight.axes)
    n, k = rank - 1, rank - 2
    if node.attributes.get_int("transB", 0):
        n, k = k, n
    return StoredMatrix(node, weight, k, n)


def _shown_through(node: ir.Node) -> tuple[ir.Value | None, float] | None:
    """Return what a node shows in another form, and what it adds; None if it computes."""
    if node.op_type in ("Transpose", "Cast", "Identity", "Unsqueeze"):
        return node.inputs[0], 0.0
    if node.op_type != "Add":
        return None
    for shown, added in (node.inputs, reversed(node.inputs)):
        number = _number(added)
        if number is not None:
            return shown, number
    return None


def _number(value: ir.Value | None) -> float | None:
    """Return a constant of one element; half precision has it cast."""
    while value is not None and (node := value.producer()) is not None and node.op_type == "Cast":
        value = node.inputs[0]
    constant = None if value is None else value.const_value
    if constant is None or constant.size != 1 or isinstance(constant, ir.LazyTensor):
        return None
    return float(constant.numpy().item())


def _axes_after(node: ir.Node, axes: list[int | None]) -> list[int | None]:
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm", tuple(reversed(range(len(axes)))))
        return [axes[axis] for axis in order]
    if node.op_type == "Unsqueeze":
        places = node.inputs[1]
        assert places is not None, "Unsqueeze has two inputs"
        assert places.const_value is not None, "a stored tensor is shown in one form only"
        rank = len(axes) + places.const_value.size
        added = {int(place) % rank for place in places.const_value.numpy().ravel()}
        rest = iter(axes)
        return [None if axis in added else next(rest) for axis in range(rank)]
    return axes


def _constant(index: Array, axis: int) -> bool:
    return bool(np.all(index == index.take([0], axis)))
