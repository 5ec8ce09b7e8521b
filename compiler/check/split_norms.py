"""Take a residual sum out of the norm that ONNX Runtime fused it with, so that it can be cut at."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from castline.compiler.passes.replace import take_over
from castline.errors import OutputError

FUSED = "SkipSimplifiedLayerNormalization"
_SUM = 3  # its fourth output
_RMS_OPSET = 23  # the first with RMSNormalization
_EPSILON = 1e-5  # the operator's default


def split_norms(graph: ir.Graph, values: Iterable[ir.Value], source: str) -> None:
    """Compute each of `values` by a node of its own where it is one of several outputs of a node.

    An Add and an RMSNormalization take the place of SkipSimplifiedLayerNormalization. Raises
    OutputError for another operator.
    """
    for value in values:
        node = value.producer()
        assert node is not None, "hidden states between layers are computed"
        others = [one for one in node.outputs if one is not value and one.consumers()]
        if not others:
            continue
        opset = graph.opset_imports.get("", 0)
        if node.op_type != FUSED or value is not node.outputs[_SUM] or opset < _RMS_OPSET:
            raise OutputError(
                f"{source}: its graph cannot be cut between layers: {node.name} ({node.op_type}) "
                f"computes {value.name} together with what the next layer reads."
            )
        _split(graph, node, value)


def _split(graph: ir.Graph, node: ir.Node, total: ir.Value) -> None:
    terms = [one for one in (*node.inputs[:2], *node.inputs[3:4]) if one is not None]
    added = terms[0]
    nodes = []
    for term in terms[1:]:
        nodes.append(ir.node("Add", [added, term]))
        added = nodes[-1].outputs[0]
    attributes = {"epsilon": node.attributes.get_float("epsilon", _EPSILON), "axis": -1}
    nodes.append(
        ir.node("RMSNormalization", [added, node.inputs[2]], attributes, name=f"{node.name}/Split")
    )
    graph.insert_before(node, nodes)
    take_over(node.outputs[0], nodes[-1].outputs[0])
    take_over(total, added)
    graph.remove(node, safe=True)
