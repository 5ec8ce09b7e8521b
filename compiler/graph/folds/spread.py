"""Spread a source's scale entries through the graph until linears take them up."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.labels import Labels, Met
from castline.compiler.graph.folds.parameters import StoredMatrix
from castline.compiler.graph.folds.rules import follow
from castline.compiler.graph.folds.sizes import Sizes
from castline.compiler.graph.folds.sources import Source
from castline.compiler.graph.folds.wording import path, shared
from castline.compiler.quant.arrays import Array


class Spread:
    """Follows one source after another through a graph."""

    def __init__(self, graph: ir.Graph, matrices: Mapping[ir.Node, StoredMatrix]) -> None:
        self._sizes = Sizes(graph)
        self._order = {node: position for position, node in enumerate(graph)}
        self._nodes = tuple(graph)
        self._matrices = matrices

    def of(self, source: Source) -> Labels | None:
        """Return where the entries of `source` end; None if the shape of its output is unknown."""
        output = source.node.outputs[0]
        shape = self._sizes.shape(output)
        if shape is None:
            return None
        labels = Labels(source.count)
        for parameter, _ in source.parameters:
            if parameter.others:
                labels.refuse(source.labels, shared(parameter.name, parameter.others))
        pending: list[int] = []
        self._give(output, np.broadcast_to(source.labels, shape), labels, pending)
        while pending:
            position = heapq.heappop(pending)
            while pending and pending[0] == position:
                heapq.heappop(pending)
            self._pass(self._nodes[position], labels, pending)
        labels.of.clear()  # labels of every element take far more memory than what they led to
        return labels

    def _give(self, value: ir.Value, found: Array, labels: Labels, pending: list[int]) -> None:
        if not found.any():
            return
        labels.of[value] = found
        if value.is_graph_output() and not _is_carried(value, found, labels):
            labels.refuse(found, f"{value.name}, an output of the graph, is made of it")
        for node in value.consumers():
            if node not in self._order:
                labels.refuse(found, f"{path(node)}, inside another node, reads it")
                continue
            heapq.heappush(pending, self._order[node])

    def _pass(self, node: ir.Node, labels: Labels, pending: list[int]) -> None:
        matrix = self._matrices.get(node)
        if matrix is not None and node.inputs[0] in labels.of:
            _absorb(matrix, labels)
            return
        for output, found in zip(node.outputs, follow(node, labels, self._sizes), strict=False):
            self._give(output, found, labels, pending)


def _absorb(matrix: StoredMatrix, labels: Labels) -> None:
    """Let a linear's weight be multiplied, column by column, by what its input is divided by."""
    node, weight = matrix.node, matrix.weight
    read = node.inputs[0]
    assert read is not None, "a linear reads a value"
    sizes = matrix.sizes(*matrix.batch, matrix.k)
    met = labels.meet(
        (*sizes[:-1], 1, sizes[-1]),
        labels.of[read],
        f"a channel that {path(node)} reads is scaled differently for some tokens",
    )
    axes = (*matrix.batch, matrix.k)
    labels.linears.append(Met(weight, axes, met.reshape(sizes), matrix))
    if weight.others:
        labels.refuse(met, shared(weight.name, weight.others))


def _is_carried(value: ir.Value, found: Array, labels: Labels) -> bool:
    """Return whether an output is a cache that the graph reads back as the past, scaled alike."""
    assumed = labels.assumed.get(str(value.name))
    return assumed is not None and bool((found == assumed).all())
