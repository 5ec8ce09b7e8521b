"""Lower products with dequantized codes to MatMulNBits, which multiplies by the codes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from castline.compiler.passes.contrib import DOMAIN, import_contrib
from castline.compiler.passes.group_sums import GroupSums
from castline.compiler.passes.linear_bias import bias_after
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.packed_matrix import PackedMatrix, packed_codes_of, packed_matrix
from castline.compiler.passes.replace import remove_unused, take_over
from castline.plugins.linear_w4a16.op import LINEAR_W4A16


@dataclass(frozen=True)
class MatMulNBits:
    """Codes are packed [N, K / block, block * bits / 8]; one scale per channel is repeated.

    It stands for a DequantizeLinear and the MatMul that reads it, and for castline.LinearW4A16,
    whose offsets multiply the sums of what is read; those are computed once for all who read it.
    """

    accuracy_level: int = 4
    """What activations may be lowered to: 4 int8 per block, 1 float32, 0 the runtime's choice."""

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Rewrite `model` in place; return the MatMuls left alone, with the reason."""
        declined: dict[str, str] = {}
        sums = GroupSums()
        for node in list(model.graph):
            if LINEAR_W4A16.is_op_of(node):
                reason = self._lower_with_offsets(model.graph, node, sums)
            elif (dequantize := _dequantize(node)) is not None:
                reason = self._lower(model.graph, node, dequantize)
            else:
                continue
            if reason:
                declined[str(node.name)] = reason
                continue
            import_contrib(model)
        return declined

    def _lower(self, graph: ir.Graph, node: ir.Node, dequantize: ir.Node) -> str | None:
        matrix = packed_matrix(graph, dequantize)
        if isinstance(matrix, str):
            return matrix
        bias, last = bias_after(node, matrix.n)
        inputs = [node.inputs[0], *matrix.values]
        if bias is not None:
            inputs += [None] * (5 - len(inputs)) + [bias]
        lowered = ir.node(
            "MatMulNBits", inputs, self._attributes(matrix), domain=DOMAIN, name=f"{node.name}NBits"
        )
        graph.insert_before(last, lowered)
        take_over(last.outputs[0], lowered.outputs[0])
        remove_unused(graph, [last])
        return None

    def _lower_with_offsets(self, graph: ir.Graph, node: ir.Node, sums: GroupSums) -> str | None:
        x, codes, scales, offsets = (value for value in node.inputs if value is not None)
        if codes.shape is None or len(codes.shape) != 2:
            return "each expert has codes with offsets"
        group = node.attributes.get_int("block_size", 0)
        matrix = packed_codes_of(graph, codes, scales, None, group, rows_are_outputs=False)
        if isinstance(matrix, str):
            return matrix
        path = str(node.name).rpartition("/")[0]
        writer = NodeWriter(graph, f"{path}/offsets", node)
        inputs = [x, *matrix.values]
        product = writer.add("MatMulNBits", inputs, self._attributes(matrix), DOMAIN)
        of_offsets = writer.add("MatMul", [sums.of(x, matrix.k // group, writer), offsets])
        if scales.dtype != ir.DataType.FLOAT:
            of_offsets = writer.add("Cast", [of_offsets], {"to": scales.dtype or ir.DataType.FLOAT})
        take_over(node.outputs[0], writer.add("Add", [product, of_offsets]))
        remove_unused(graph, [node])
        return None

    def _attributes(self, matrix: PackedMatrix) -> dict[str, int]:
        return {
            "K": matrix.k,
            "N": matrix.n,
            "bits": matrix.bits,
            "block_size": matrix.block,
            "accuracy_level": self.accuracy_level,
        }


def _dequantize(node: ir.Node) -> ir.Node | None:
    """Return the DequantizeLinear of [K, N] codes, or of [N, K] ones behind a Transpose."""
    weight = node.inputs[1] if node.op_type == "MatMul" else None
    producer = weight.producer() if weight is not None else None
    axis = 0
    if producer is not None and producer.op_type == "Transpose":
        value = producer.inputs[0]
        producer = value.producer() if value is not None else None
        axis = 1
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    group = producer.attributes.get_int("block_size", 0)
    along_k = producer.attributes.get_int("axis", 1) == (axis if group else 1 - axis)
    return producer if along_k else None
