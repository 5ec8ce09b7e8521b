"""Find the linear layers of a decoder graph."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from castline.exporters.names import LOGITS


@dataclass(frozen=True)
class Linear:
    """A MatMul of activations with a stored matrix."""

    node: ir.Node
    weight: ir.Value
    """The initializer, [K, N], or [N, K] when `transposed`."""
    transposed: bool
    """Whether a Transpose stands between the matrix and the MatMul, as for a tied head."""
    is_head: bool
    """Whether its output is the logits."""

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
    found = (_linear(node) for node in model.graph if node.op_type == "MatMul")
    return tuple(linear for linear in found if linear is not None)


def _linear(node: ir.Node) -> Linear | None:
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
    output = node.outputs[0]
    return Linear(node, weight, transposed, output.is_graph_output() and output.name == LOGITS)
