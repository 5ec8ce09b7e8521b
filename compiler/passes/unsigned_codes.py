"""Move static codes of activations by 128: x86 multiplies unsigned by signed bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.initializers import constant

MIDDLE = 128


@dataclass(frozen=True)
class UnsignedCodes:
    """INT8 codes with zero-point z become UINT8 codes with zero-point z + 128: the same values.

    ONNX Runtime's product of INT8 by INT8 is a plain loop on x86, ten times slower.
    """

    def __call__(self, model: ir.Model) -> None:
        """Rewrite `model` in place."""
        for node in list(model.graph):
            if node.op_type != "QuantizeLinear" or node.domain != "":
                continue
            users = [use.node for use in node.outputs[0].uses()]
            if node.outputs[0].is_graph_output() or any(
                user.op_type != "DequantizeLinear" for user in users
            ):
                continue
            if _zero_point(node) is not None:
                _move(model.graph, node, users)


def _zero_point(node: ir.Node) -> int | None:
    """Return the stored INT8 zero-point that all codes share; None where it is another kind."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    if tensor is None or tensor.dtype != ir.DataType.INT8 or tensor.size != 1:
        return None
    return int(tensor.numpy())


def _move(graph: ir.Graph, quantize: ir.Node, users: list[ir.Node]) -> None:
    old = quantize.inputs[2]
    assert old is not None, "checked before"
    name = f"{old.name}_unsigned"
    new = graph.initializers.get(name)
    if new is None:
        moved = np.array(int(old.const_value.numpy()) + MIDDLE, np.uint8)  # type: ignore[union-attr]
        new = constant(graph, name, moved)
    for node in (quantize, *users):
        node.replace_input_with(2, new)
    quantize.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    if not old.consumers():
        graph.initializers.pop(str(old.name))
