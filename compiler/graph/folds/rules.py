"""Say for every operator how scales are followed through it; any other operator ends them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from castline.compiler.graph.folds import contractions, elementwise, moves
from castline.compiler.graph.folds.labels import Labels, end
from castline.compiler.graph.folds.sizes import Sizes
from castline.compiler.quant.arrays import Array

Rule = Callable[[ir.Node, Labels, Sizes], list[Array]]

_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "Abs", "Neg", "Identity"), elementwise.kept),
    "Cast": elementwise.cast,
    "Mul": elementwise.multiplied,
    "Div": elementwise.divided,
    **dict.fromkeys(("Add", "Sub"), elementwise.added),
    **dict.fromkeys(
        (
            "Gelu", "Sigmoid", "Tanh", "Erf", "Exp", "Softplus", "Pow", "Sqrt", "Elu", "Clip",
            "HardSigmoid", "HardSwish", "Swish", "Mish", "Log",
        ),
        elementwise.bent,
    ),
    **dict.fromkeys(
        (
            "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Split", "Slice", "Expand",
            "Tile", "Gather", "GatherND",
        ),
        moves.moved,
    ),
    "Concat": moves.joined,
    **dict.fromkeys(("ReduceSum", "ReduceMean"), contractions.reduced),
    "MatMul": contractions.mixed,
    "Attention": contractions.attended,
}  # fmt: skip


def follow(node: ir.Node, labels: Labels, sizes: Sizes) -> list[Array]:
    """Return the labels of a node's outputs, at least one of whose inputs has labels.

    What the node does not let through is refused. The list is empty where nothing is left to be
    followed.
    """
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    return end(node, labels) if rule is None else rule(node, labels, sizes)
