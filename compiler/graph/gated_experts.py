"""Recognize experts that are gated by SiLU: down(silu(gate(x)) * up(x)), gate beside up."""

from __future__ import annotations

import onnx_ir as ir

from castline.compiler.graph.experts import DenseExperts


def is_silu_gated(experts: DenseExperts) -> bool:
    """Return whether the first linear's output is [gate, up], and the second reads the product.

    There is nothing else in between, and no bias.
    """
    if len(experts.linears) != 2:
        return False
    gate_up, down = experts.linears
    if gate_up.node.inputs[0] is not experts.rows or down.node.outputs[0] is not experts.answers:
        return False
    product = _producer(down.node.inputs[0], "Mul")
    split = _only(experts.between, "Split")
    if product is None or split is None or split.inputs[0] is not gate_up.node.outputs[0]:
        return False
    if gate_up.n != 2 * down.k or len(split.outputs) != 2 or _width(split.outputs[0]) != down.k:
        return False
    gate, up = split.outputs
    return any(
        other is up and _is_silu_of(activated, gate)
        for activated, other in (product.inputs, reversed(product.inputs))
    )


def _is_silu_of(value: ir.Value | None, gate: ir.Value) -> bool:
    swish = _producer(value, "Swish")
    if swish is not None:
        return swish.inputs[0] is gate and swish.attributes.get_float("alpha", 1.0) == 1.0
    product = _producer(value, "Mul")
    if product is None:
        return False
    sigmoids = [_producer(read, "Sigmoid") for read in product.inputs]
    return gate in product.inputs and any(s is not None and s.inputs[0] is gate for s in sigmoids)


def _only(nodes: tuple[ir.Node, ...], op_type: str) -> ir.Node | None:
    found = [node for node in nodes if node.op_type == op_type]
    return found[0] if len(found) == 1 else None


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def _width(value: ir.Value) -> object:
    return None if value.shape is None else value.shape[-1]
