"""Prove from the graph that a value is nowhere below zero, as the weights of most routers are."""

from __future__ import annotations

import onnx_ir as ir

_ALWAYS = ("Abs", "Exp", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt")
_AS_FIRST_INPUT = (
    *("Cast", "Expand", "Gather", "GatherElements", "Identity", "ReduceSum", "Reshape", "Slice"),
    *("Split", "Squeeze", "TopK", "Transpose", "Unsqueeze"),
)
_AS_ALL_INPUTS = ("Add", "Concat", "Div", "Min", "Mul")


def is_non_negative(value: ir.Value | None) -> bool:
    """Return whether no number of `value` can be below zero; False where nothing proves it."""
    if value is None:
        return False
    if value.is_initializer():
        return value.const_value is not None and bool((value.const_value.numpy() >= 0).all())
    node = value.producer()
    if node is None:
        return False
    if node.op_type in _ALWAYS:
        return True
    if node.op_type in _AS_FIRST_INPUT:
        return is_non_negative(node.inputs[0])
    if node.op_type in _AS_ALL_INPUTS:
        return all(is_non_negative(read) for read in node.inputs)
    if node.op_type == "Max":
        return any(is_non_negative(read) for read in node.inputs)
    return False
