"""Find what can absorb a scale by being divided: gains of norms, and the rows of linears."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.parameters import Parameter, parameter, stored_matrix
from castline.compiler.quant.arrays import Array

NORMS = ("RMSNormalization", "LayerNormalization")


@dataclass(frozen=True, eq=False)
class Source:
    """A node whose output is divided, element by element, when its parameters are."""

    node: ir.Node
    kind: str
    """What is divided, in words."""
    parameters: tuple[tuple[Parameter, tuple[int, ...]], ...]
    """Each parameter, and the axes of the shown one along which the labels count, C order."""
    labels: Array
    """int, broadcasts to the output: 1, 2, ... for every entry of the first parameter."""

    @property
    def count(self) -> int:
        return int(self.labels.size)


def source(node: ir.Node) -> Source | None:
    """Return how a node can absorb a scale; None if it cannot."""
    if node.domain != "":
        return None
    if node.op_type in NORMS:
        return _norm(node)
    if node.op_type == "Mul":
        return _gain(node)
    return _linear(node)


def _norm(node: ir.Node) -> Source | None:
    gain = parameter(node.inputs[1], node)
    if gain is None or len(gain.axes) != 1:
        return None
    bias = parameter(node.inputs[2], node) if len(node.inputs) > 2 else None
    if len(node.inputs) > 2 and node.inputs[2] is not None and bias is None:
        return None
    parts = ((gain, (0,)),) if bias is None else ((gain, (0,)), (bias, (0,)))
    kind = "norm gain and bias" if bias else _gain_kind(gain)
    return Source(node, kind, parts, _numbered(gain.shape))


def _gain_kind(gain: Parameter) -> str:
    return f"norm gain ({gain.offset:g} + w)" if gain.offset else "norm gain"


def _gain(node: ir.Node) -> Source | None:
    """Return the gain that a Mul applies, as in a norm of primitive operators."""
    found = [(position, parameter(value, node)) for position, value in enumerate(node.inputs)]
    gains = [(position, gain) for position, gain in found if gain is not None]
    if len(gains) != 1:
        return None
    gain = gains[0][1]
    axes = tuple(axis for axis, size in enumerate(gain.shape) if size > 1)
    if axes != (len(gain.shape) - 1,):
        return None
    return Source(node, _gain_kind(gain), ((gain, axes),), _numbered(gain.shape))


def _linear(node: ir.Node) -> Source | None:
    matrix = stored_matrix(node)
    if matrix is None:
        return None
    sizes = matrix.sizes(*matrix.batch, matrix.n)
    parts = [(matrix.weight, (*matrix.batch, matrix.n))]
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = parameter(node.inputs[2], node)
        if bias is None or bias.shape != sizes:
            return None
        parts.append((bias, (0,)))
    return Source(node, "rows", tuple(parts), _numbered((*sizes[:-1], 1, sizes[-1])))


def _numbered(shape: tuple[int, ...]) -> Array:
    return np.arange(1, int(np.prod(shape)) + 1, dtype=np.int32).reshape(shape)
