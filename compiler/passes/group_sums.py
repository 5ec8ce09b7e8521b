"""Sum what linears read in groups, once for all that read it: offsets of codes multiply such."""

from __future__ import annotations

import onnx_ir as ir

from castline.compiler.passes.node_writer import NodeWriter


class GroupSums:
    """The sums [..., G] of values [..., K] of one graph, in float32."""

    def __init__(self) -> None:
        self._written: dict[tuple[ir.Value, int], ir.Value] = {}

    def of(self, x: ir.Value, groups: int, writer: NodeWriter) -> ir.Value:
        """Return the sums of `x` in so many groups; written by the first who asks."""
        if (x, groups) not in self._written:
            self._written[x, groups] = _written(x, groups, writer)
        return self._written[x, groups]


def _written(x: ir.Value, groups: int, writer: NodeWriter) -> ir.Value:
    wide = x
    if x.dtype != ir.DataType.FLOAT:  # the sum of a group of float16 may be beyond float16
        wide = writer.add("Cast", [x], {"to": ir.DataType.FLOAT})
    leading = writer.add("Shape", [x], {"start": 0, "end": -1})
    in_groups = writer.constant("groups", [groups, -1])
    shape = writer.add("Concat", [leading, in_groups], {"axis": 0})
    grouped = writer.add("Reshape", [wide, shape])
    return writer.add("ReduceSum", [grouped, writer.constant("last", [-1])], {"keepdims": 0})
