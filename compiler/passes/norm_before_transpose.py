"""Norm heads before they are put in front: attention is recognized by what comes before."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from castline.compiler.passes.replace import take_over


@dataclass(frozen=True)
class NormBeforeTranspose:
    """RMSNormalization of a Transpose becomes Transpose of an RMSNormalization.

    They commute where the norm is over the last axis alone and the Transpose leaves that axis last:
    some architectures (Gemma 3) norm query and key heads after the Transpose, others before.
    """

    def __call__(self, model: ir.Model) -> None:
        """Rewrite `model` in place."""
        for norm in list(model.graph):
            if norm.op_type == "RMSNormalization" and _commutes(norm):
                _swap(model.graph, norm)


def _commutes(norm: ir.Node) -> bool:
    value = norm.inputs[0]
    transpose = value.producer() if value is not None else None
    if value is None or transpose is None or transpose.op_type != "Transpose":
        return False
    axes = tuple(transpose.attributes.get_ints("perm", ()))
    last = len(axes) - 1
    if not axes or axes[-1] != last or norm.attributes.get_int("axis", -1) not in (-1, last):
        return False
    return len(list(value.uses())) == 1 and not value.is_graph_output()


def _swap(graph: ir.Graph, norm: ir.Node) -> None:
    value = norm.inputs[0]
    assert value is not None, "checked before"
    transpose = value.producer()
    assert transpose is not None, "checked before"
    source = transpose.inputs[0]
    assert source is not None, "Transpose has an input"
    early = ir.node(
        "RMSNormalization",
        [source, norm.inputs[1]],
        {"axis": -1, "epsilon": norm.attributes.get_float("epsilon", 1e-5)},
        name=norm.name,
    )
    early.outputs[0].name = f"{norm.name}_heads_last"
    early.outputs[0].shape, early.outputs[0].type = source.shape, source.type
    late = ir.node(
        "Transpose",
        [early.outputs[0]],
        {"perm": transpose.attributes.get_ints("perm")},
        name=transpose.name,
    )
    graph.insert_before(norm, [early, late])
    take_over(norm.outputs[0], late.outputs[0])
    graph.remove([norm, transpose], safe=True)
