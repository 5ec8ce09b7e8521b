"""Choose between two graphs of one model by how many tokens come in: one If around all nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.branches import weight_nodes
from castline.compiler.passes.initializers import constant
from castline.exporters.names import INPUT_IDS

MOST_FEW = 4
"""Tokens up to which 4-bit codes multiply faster than bytes: by measurement on AVX-512 VNNI."""


@dataclass(frozen=True)
class ChooseByTokens:
    """Up to `most_few` tokens, of all sequences together, run `few`; more run the model's nodes.

    One If around everything costs nothing that can be measured, where one a product would cost a
    sixth of a small model's decode. Weights, and nodes that read weights alone, stay outside: both
    branches read them. A cache that is appended to in place still is.
    """

    few: ir.Graph
    """Gives the outputs of the model in their order; reads its inputs and weights."""
    most_few: int = MOST_FEW

    def __call__(self, model: ir.Model) -> None:
        """Rewrite `model` in place."""
        graph = model.graph
        stay = weight_nodes(graph)
        moved = [node for node in graph if node not in stay]
        outputs = list(graph.outputs)
        graph.outputs.clear()
        graph.remove(moved)
        branches = {
            "then_branch": self.few,
            "else_branch": ir.Graph([], outputs, nodes=moved, name="many_tokens"),
        }
        chosen = [ir.Value(name=v.name, shape=v.shape, type=v.type) for v in outputs]
        _rename(self.few, "few")
        _rename(branches["else_branch"], "many")
        attributes = [ir.AttrGraph(name, branch) for name, branch in branches.items()]
        few = self._are_few(graph)
        graph.append(ir.Node("", "If", [few], attributes, outputs=chosen, name="/tokens/If"))
        graph.outputs.extend(chosen)

    def _are_few(self, graph: ir.Graph) -> ir.Value:
        tokens = next(value for value in graph.inputs if value.name == INPUT_IDS)
        most = constant(graph, "castline.most_few_tokens", np.array(self.most_few, np.int64))
        size = ir.node("Size", [tokens], name="/tokens/Size")
        few = ir.node("LessOrEqual", [size.outputs[0], most], name="/tokens/LessOrEqual")
        for node in (size, few):
            node.outputs[0].name = f"{node.name}_output_0"
            graph.append(node)
        return few.outputs[0]


def _rename(graph: ir.Graph, prefix: str) -> None:
    """Set a prefix before every name in a branch: names are unique in a model with its branches."""
    for node in graph:
        node.name = _prefixed(prefix, str(node.name))
        _rename_values(node.outputs, prefix)


def _rename_values(values: Iterable[ir.Value], prefix: str) -> None:
    for value in values:
        if value.name:  # an optional output that is not asked for has none
            value.name = _prefixed(prefix, value.name)


def _prefixed(prefix: str, name: str) -> str:
    return f"/{prefix}/{name.removeprefix('/')}"
