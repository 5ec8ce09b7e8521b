"""Lower DequantizeLinear and MatMul to MatMulNBits, which multiplies by the codes themselves."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from castline.compiler.passes.contrib import DOMAIN, import_contrib
from castline.compiler.passes.linear_bias import bias_after
from castline.compiler.passes.packed_matrix import packed_matrix
from castline.compiler.passes.replace import remove_unused, take_over


@dataclass(frozen=True)
class MatMulNBits:
    """Codes are packed [N, K / block, block * bits / 8]; one scale per channel is repeated."""

    accuracy_level: int = 4
    """What activations may be lowered to: 4 int8 per block, 1 float32, 0 the runtime's choice."""

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Rewrite `model` in place; return the MatMuls left alone, with the reason."""
        declined: dict[str, str] = {}
        for node in list(model.graph):
            if node.op_type != "MatMul":
                continue
            dequantize = _dequantize(node.inputs[1])
            if dequantize is None:
                continue
            reason = self._lower(model.graph, node, dequantize)
            if reason:
                declined[str(node.name)] = reason
                continue
            import_contrib(model)
        return declined

    def _lower(self, graph: ir.Graph, node: ir.Node, dequantize: ir.Node) -> str | None:
        matrix = packed_matrix(graph, dequantize)
        if isinstance(matrix, str):
            return matrix
        attributes = {
            "K": matrix.k,
            "N": matrix.n,
            "bits": matrix.bits,
            "block_size": matrix.block,
            "accuracy_level": self.accuracy_level,
        }
        bias, last = bias_after(node, matrix.n)
        inputs = [node.inputs[0], *matrix.values]
        if bias is not None:
            inputs += [None] * (5 - len(inputs)) + [bias]
        lowered = ir.node(
            "MatMulNBits", inputs, attributes, domain=DOMAIN, name=f"{node.name}NBits"
        )
        graph.insert_before(last, lowered)
        take_over(last.outputs[0], lowered.outputs[0])
        remove_unused(graph, [last])
        return None


def _dequantize(weight: ir.Value | None) -> ir.Node | None:
    """Return the DequantizeLinear of [K, N] codes, or of [N, K] codes behind a Transpose."""
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
