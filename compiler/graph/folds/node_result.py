"""Compute what one node makes of given arrays, as ONNX defines it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from castline.compiler.quant.arrays import Array

_evaluators: dict[tuple[object, ...], ReferenceEvaluator] = {}


def node_result(node: ir.Node, inputs: Sequence[Array | None]) -> list[Array]:
    """Return the node's outputs for its inputs, None for one that it does without.

    The attributes must be numbers or strings; ONNX's reference evaluator computes, in plain numpy.
    """
    key = (form(node), tuple(value is None for value in node.inputs))
    if key not in _evaluators:
        _evaluators[key] = ReferenceEvaluator(ir.to_proto(_renamed(node)))
    feeds = {f"i{i}": array for i, array in enumerate(inputs) if array is not None}
    return [np.asarray(output) for output in _evaluators[key].run(None, feeds)]


def form(node: ir.Node) -> tuple[object, ...]:
    """Return what tells a node from others but its inputs: operator, attributes, output count."""
    attributes = tuple(sorted((a.name, str(a.value)) for a in node.attributes.values()))
    return node.domain, node.op_type, attributes, len(node.outputs)


def _renamed(node: ir.Node) -> ir.Node:
    """Return a copy whose inputs and outputs are numbered: one evaluator serves all its likes."""
    return ir.Node(
        node.domain,
        node.op_type,
        [None if v is None else ir.Value(name=f"i{i}") for i, v in enumerate(node.inputs)],
        [ir.Attr(a.name, a.type, a.value) for a in node.attributes.values()],
        outputs=[ir.Value(name=f"o{i}") for i in range(len(node.outputs))],
    )
