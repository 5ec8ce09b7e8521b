"""Dequantize E4M3 activations by Cast and Mul, which ONNX Runtime does not fuse."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.replace import remove_unused, take_over


@dataclass(frozen=True)
class Float8Casts:
    """The values stay the same: a cast from E4M3 is exact, and the scale multiplies it likewise.

    ONNX Runtime 1.31 takes a float32 MatMul of two DequantizeLinears for one of bytes, whatever
    their codes are, and then refuses the model.
    """

    def __call__(self, model: ir.Model) -> None:
        """Rewrite `model` in place; weights keep their DequantizeLinear."""
        for node in list(model.graph):
            codes = node.inputs[0] if node.op_type == "DequantizeLinear" else None
            if codes is None or codes.is_initializer() or codes.dtype != ir.DataType.FLOAT8E4M3FN:
                continue
            scale = node.inputs[1]
            assert scale is not None, "DequantizeLinear has a scale"
            writer = NodeWriter(model.graph, f"{node.name}/exact", node)
            number = writer.add("Cast", [codes], {"to": scale.dtype or ir.DataType.FLOAT})
            take_over(node.outputs[0], writer.add("Mul", [number, scale]))
            remove_unused(model.graph, [node])
