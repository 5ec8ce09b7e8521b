"""Find the bias that a linear ends with."""

from __future__ import annotations

import onnx_ir as ir


def bias_after(node: ir.Node, n: int) -> tuple[ir.Value | None, ir.Node]:
    """Return the bias [N] that an Add after `node` brings, and the node that ends the linear."""
    users = list(node.outputs[0].consumers())
    if len(users) == 1 and users[0].op_type == "Add" and not node.outputs[0].is_graph_output():
        for value in users[0].inputs:
            if value is not None and value.is_initializer() and value.shape == (n,):
                return value, users[0]
    return None, node
