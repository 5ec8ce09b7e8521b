"""Compute a gate and what it multiplies with one product: one dispatch in place of two."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import onnx_ir as ir

from castline.compiler.passes.pack_projections import (
    is_stackable,
    not_alike,
    outputs_of,
    read_by,
    stacked_product,
)
from castline.compiler.passes.replace import remove_unused, take_over


@dataclass(frozen=True)
class PackGates:
    """Two products of one form and size that alone read a value are one, and a Split.

    Such are the gate of a feed-forward part and what it multiplies: MatMulNBits, which then rounds
    the value to codes once, or our products of codes by codes. Three or more that read one value
    are left alone: those of attention are PackProjections' business, and of experts there are many.
    """

    def __call__(self, model: ir.Model) -> int:
        """Rewrite `model` in place; return how many pairs became one product."""
        readers: dict[tuple[ir.Value | None, ...], list[ir.Node]] = defaultdict(list)
        for node in model.graph:
            if is_stackable(node):
                readers[read_by(node)].append(node)
        pairs = [nodes for nodes in readers.values() if _is_pair(nodes)]
        for pair in pairs:
            _pack(model.graph, pair)
        return len(pairs)


def _is_pair(nodes: list[ir.Node]) -> bool:
    if len(nodes) != 2 or not_alike(nodes) or len({outputs_of(node) for node in nodes}) > 1:
        return False
    return not any(node.outputs[0].is_graph_output() for node in nodes)


def _pack(graph: ir.Graph, pair: list[ir.Node]) -> None:
    paths = [str(node.name).rpartition("/")[0] for node in pair]
    leaves = "_".join(path.rpartition("/")[2] for path in paths)
    path = f"{paths[0].rpartition('/')[0]}/{leaves}"
    packed = stacked_product(pair, path)
    options = [ir.AttrInt64("axis", -1), ir.AttrInt64("num_outputs", len(pair))]
    split = ir.Node("", "Split", packed.outputs, options, num_outputs=len(pair))
    split.name = f"{path}/Split"
    graph.insert_before(pair[0], [packed, split])
    for node, part in zip(pair, split.outputs, strict=True):
        take_over(node.outputs[0], part)
    remove_unused(graph, pair)
