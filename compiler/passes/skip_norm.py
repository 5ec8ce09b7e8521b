"""Fuse a residual Add with the RMSNormalization that reads it into one node."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from castline.compiler.passes.contrib import DOMAIN, import_contrib
from castline.compiler.passes.replace import remove_unused, take_over

_SUM_OUTPUT = 3  # SkipSimplifiedLayerNormalization hands the sum on as its fourth output


@dataclass(frozen=True)
class SkipNorm:
    """Add and RMSNormalization over the last axis become SkipSimplifiedLayerNormalization."""

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Rewrite `model` in place; return the norms left alone, with the reason."""
        declined: dict[str, str] = {}
        for norm in list(model.graph):
            if norm.op_type != "RMSNormalization":
                continue
            reason = _declined(norm)
            if reason:
                declined[str(norm.name)] = reason
                continue
            _fuse(model.graph, norm)
            import_contrib(model)
        return declined


def _declined(norm: ir.Node) -> str | None:
    value = norm.inputs[0]
    add = value.producer() if value is not None else None
    if value is None or add is None or add.op_type != "Add":
        return "no Add feeds it"
    if value.is_graph_output():
        return "the sum is an output of the graph"
    if norm.attributes.get_int("axis", -1) != -1:
        return "it does not normalize the last axis alone"
    if any(term is None or term.is_initializer() for term in add.inputs):
        return "the Add is a bias, not a residual"
    norms = [node for node in value.consumers() if node.op_type == "RMSNormalization"]
    return None if norms == [norm] else "several norms read the sum"


def _fuse(graph: ir.Graph, norm: ir.Node) -> None:
    total = norm.inputs[0]
    assert total is not None, "checked before"
    add = total.producer()
    assert add is not None, "checked before"
    fused = ir.node(
        "SkipSimplifiedLayerNormalization",
        [add.inputs[0], add.inputs[1], norm.inputs[1]],
        {"epsilon": norm.attributes.get_float("epsilon", 1e-5)},
        domain=DOMAIN,
        num_outputs=_SUM_OUTPUT + 1,
        name=f"{norm.name}/Skip",
    )
    for unused in fused.outputs[1:_SUM_OUTPUT]:
        unused.name = ""
    graph.insert_before(norm, fused)
    take_over(norm.outputs[0], fused.outputs[0])
    graph.remove(norm, safe=True)
    take_over(total, fused.outputs[_SUM_OUTPUT])
    remove_unused(graph, [add])
