"""Write new nodes in front of an old one, under a path and numbered by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.initializers import constant


class NodeWriter:
    """Names are `<path>/<operator>`, from the second on with a number, as an exporter's are."""

    def __init__(self, graph: ir.Graph, path: str, before: ir.Node) -> None:
        self._graph = graph
        self._path = path
        self._before = before
        self._written: Counter[str] = Counter()

    def constant(self, name: str, numbers: Sequence[int] | int) -> ir.Value:
        """Add an int64 initializer `<path>/<name>`."""
        return constant(self._graph, f"{self._path}/{name}", np.array(numbers, np.int64))

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int | str] | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Add a node with one output; return it."""
        return self.several(op_type, inputs, attributes or {}, 1, domain)[0]

    def several(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int | str],
        outputs: int,
        domain: str = "",
    ) -> Sequence[ir.Value]:
        """Add a node with so many outputs; return them."""
        number = self._written[op_type]
        self._written[op_type] += 1
        name = f"{self._path}/{op_type}" + (f"_{number}" if number else "")
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=outputs, name=name)
        for place, value in enumerate(node.outputs):
            value.name = f"{name}_output_{place}"
        self._graph.insert_before(self._before, node)
        return node.outputs
