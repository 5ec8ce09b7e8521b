"""Name what stands in the way of a fold, in words of the field."""

from __future__ import annotations

import onnx_ir as ir

_BY_OPERATOR = {
    "Gelu": "GELU", "Swish": "SiLU", "Softplus": "softplus", "Elu": "ELU", "Clip": "a clamp",
    "HardSwish": "hard swish", "Mish": "Mish",
}  # fmt: skip
_INSIDE = {"Tanh": "GELU", "Erf": "GELU", "Sigmoid": "SiLU", "Softplus": "Mish"}
_STEPS = frozenset(("Mul", "Add", "Pow", "Div", *_INSIDE))
_REACH = 8  # steps within which the parts of an activation follow one another

_FORMS = (
    "Reshape", "Unsqueeze", "Squeeze", "Cast", "Identity", "Expand", "Flatten", "Transpose",
    "Slice", "Gather", "Mul",
)  # fmt: skip
_PRODUCED_BY = {
    "Gather": "a table of embeddings produces it",
    "Add": "a sum, such as the residual stream, produces it",
}


def activation(node: ir.Node) -> str:
    """Return the activation function that `node` is, or is the first operator of."""
    if node.op_type in _BY_OPERATOR:
        return _BY_OPERATOR[node.op_type]
    reached = [node]
    for _ in range(_REACH):
        for step in reached:
            if step.op_type in _INSIDE:
                return _INSIDE[step.op_type]
        reached = [
            reader
            for step in reached
            for reader in step.outputs[0].consumers()
            if reader.op_type in _STEPS
        ]
    return node.op_type


def path(node: ir.Node) -> str:
    """Return how a reason names a node: operator and path."""
    return f"{node.op_type} {node.name}" if node.name else node.op_type


def unabsorbed(value: ir.Value) -> str:
    """Return why nothing can be divided in place of `value`."""
    maker = value.producer()
    while maker is not None and maker.op_type in _FORMS:
        read = maker.inputs[0]
        if read is None or read.is_initializer():
            break
        maker = read.producer()
    if maker is None:
        return "it is an input of the graph"
    return _PRODUCED_BY.get(maker.op_type, f"{path(maker)} produces it, which no scale passes")


def shared(parameter: str, others: tuple[ir.Node, ...]) -> str:
    """Return why a parameter that other nodes read cannot be changed."""
    if any(node.op_type == "Gather" for node in others):
        return f"{parameter} is also the embedding table"
    return f"{parameter} is also read by {path(others[0])}"
