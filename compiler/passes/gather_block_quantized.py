"""Lower the lookup in a quantized table to GatherBlockQuantized, which reads codes alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.contrib import DOMAIN, import_contrib
from castline.compiler.passes.initializers import constant
from castline.compiler.passes.packed_matrix import PackedMatrix, packed_matrix
from castline.compiler.passes.replace import remove_unused, take_over


@dataclass(frozen=True)
class GatherBlockQuantized:
    """Shares its codes with a MatMulNBits of the same matrix, seen as [rows, bytes]."""

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Rewrite `model` in place; return the lookups left alone, with the reason."""
        declined: dict[str, str] = {}
        for node in list(model.graph):
            table = node.inputs[0] if node.op_type == "Gather" else None
            dequantize = table.producer() if table is not None else None
            if dequantize is None or dequantize.op_type != "DequantizeLinear":
                continue
            matrix = packed_matrix(model.graph, dequantize)
            if isinstance(matrix, str):
                declined[str(node.name)] = matrix
                continue
            _lower(model.graph, node, matrix)
            import_contrib(model)
        return declined


def _lower(graph: ir.Graph, node: ir.Node, matrix: PackedMatrix) -> None:
    codes, scales, *zero_points = matrix.values
    groups = matrix.k // matrix.block
    path = str(node.name).rpartition("/")[0]
    rows = _reshaped(graph, codes, (matrix.n, matrix.k * matrix.bits // 8), f"{path}/codes", node)
    scale_rows = _reshaped(graph, scales, (matrix.n, groups), f"{path}/scales", node)
    lowered = ir.node(
        "GatherBlockQuantized",
        [rows, node.inputs[1], scale_rows, *zero_points],
        {
            "gather_axis": 0,
            "quantize_axis": 1,
            "block_size": matrix.block,
            "bits": matrix.bits,
        },
        domain=DOMAIN,
        name=f"{path}/GatherBlockQuantized",
    )
    graph.insert_before(node, lowered)
    take_over(node.outputs[0], lowered.outputs[0])
    remove_unused(graph, [node])


def _reshaped(
    graph: ir.Graph, value: ir.Value, shape: tuple[int, int], path: str, before: ir.Node
) -> ir.Value:
    target = constant(graph, f"{path}/shape", np.array(shape, np.int64))
    node = ir.node("Reshape", [value, target], name=f"{path}/Reshape")
    output = node.outputs[0]
    output.name, output.shape, output.type = f"{path}/Reshape_output_0", ir.Shape(shape), value.type
    graph.insert_before(before, node)
    return output
