"""Find the linears of experts, whose matrices are stacked, and the routers that choose."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

_PRODUCTS = ("MatMul", "Gemm")


@dataclass(frozen=True)
class StackedLinear:
    """A MatMul of [1 or E, T, K] with the stored matrices [E, K, N], one for each expert."""

    node: ir.Node
    stored: ir.Value
    """The initializer: the matrices, or their codes."""
    dequantize: ir.Node | None
    """The DequantizeLinear between codes, in groups along K, and the MatMul."""

    @property
    def name(self) -> str:
        """Name of the stack in the checkpoint, or of its codes."""
        return str(self.stored.name)

    @property
    def experts(self) -> int:
        """Number of matrices."""
        return self._dimension(0)

    @property
    def k(self) -> int:
        """Input dimension."""
        return self._dimension(1)

    @property
    def n(self) -> int:
        """Output dimension."""
        return self._dimension(2)

    def _dimension(self, axis: int) -> int:
        assert self.stored.shape is not None, "initializers have shapes"
        size = self.stored.shape[axis]
        assert isinstance(size, int), "initializers have static shapes"
        return size


def stacked_linears(model: ir.Model) -> tuple[StackedLinear, ...]:
    """Return every linear of experts in the graph, in graph order."""
    found = (stacked_linear(node) for node in model.graph)
    return tuple(linear for linear in found if linear is not None)


def stacked_linear(node: ir.Node) -> StackedLinear | None:
    """Return a node as a linear of experts, or None where it is not one."""
    stored = node.inputs[1] if node.op_type == "MatMul" else None
    dequantize = stored.producer() if stored is not None else None
    if dequantize is not None:
        if (
            dequantize.op_type != "DequantizeLinear"
            or dequantize.attributes.get_int("axis", 1) != 1
        ):
            return None
        stored = dequantize.inputs[0]
    if stored is None or not stored.is_initializer():
        return None
    if stored.shape is None or len(stored.shape) != 3:
        return None
    return StackedLinear(node, stored, dequantize)


def routers(model: ir.Model) -> frozenset[ir.Node]:
    """Return the products that choose experts: a TopK depends on them with none in between."""
    found: set[ir.Node] = set()
    seen: set[ir.Node] = set()
    pending = [node for node in model.graph if node.op_type == "TopK"]
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op_type in _PRODUCTS:
            found.add(node)
            continue
        producers = (value.producer() for value in node.inputs if value is not None)
        pending.extend(producer for producer in producers if producer is not None)
    return frozenset(found)
