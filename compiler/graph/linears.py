"""Find the linear layers of a decoder graph."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from castline.exporters.names import LOGITS

# What a model does to its logits: Cohere scales them, Gemma 2 caps them, Phi adds a bias.
_AFTER_HEAD = ("Add", "Cast", "Div", "Identity", "Mul", "Sub", "Tanh")


@dataclass(frozen=True)
class Linear:
    """A MatMul of activations with a stored matrix."""

    node: ir.Node
    weight: ir.Value
    """The initializer, [K, N], or [N, K] when `transposed`."""
    transposed: bool
    """Whether a Transpose stands between the matrix and the MatMul, as for a tied head."""
    is_head: bool
    """Whether the logits come of it without another product: scaled, capped or cast at most."""

    @property
    def name(self) -> str:
        """Name of its weight in the checkpoint."""
        return str(self.weight.name)

    @property
    def k(self) -> int:
        """Input dimension."""
        return self._dimension(1 if self.transposed else 0)

    @property
    def n(self) -> int:
        """Output dimension."""
        return self._dimension(0 if self.transposed else 1)

    def _dimension(self, axis: int) -> int:
        assert self.weight.shape is not None, "initializers have shapes"
        size = self.weight.shape[axis]
        assert isinstance(size, int), "initializers have static shapes"
        return size


def linears(model: ir.Model) -> tuple[Linear, ...]:
    """Return every linear of the graph, in graph order."""
    heads = _heads(model)
    found = (_linear(node, heads) for node in model.graph if node.op_type == "MatMul")
    return tuple(linear for linear in found if linear is not None)


def _heads(model: ir.Model) -> frozenset[ir.Node]:
    """Return the products that reach the logits with no other product between."""
    values = [value for value in model.graph.outputs if value.name == LOGITS]
    heads: set[ir.Node] = set()
    seen: set[ir.Node] = set()
    while values:
        node = values.pop().producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type == "MatMul":
            heads.add(node)
        elif node.op_type in _AFTER_HEAD:
            values.extend(value for value in node.inputs if value is not None)
    return frozenset(heads)


def _linear(node: ir.Node, heads: frozenset[ir.Node]) -> Linear | None:
    weight = node.inputs[1]
    assert weight is not None, "MatMul has two inputs"
    producer = weight.producer()
    transposed = producer is not None and producer.op_type == "Transpose"
    if transposed:
        assert producer is not None
        weight = producer.inputs[0]
    if weight is None or not weight.is_initializer() or weight.shape is None:
        return None
    if len(weight.shape) != 2:
        return None
    return Linear(node, weight, transposed, node in heads)
