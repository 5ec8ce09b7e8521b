"""Say which nodes of a saved graph compute each token from that token alone."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from castline.plugins.op import DOMAIN

_RANK, _TOKENS = 3, 1  # of [batch, sequence, width]
_LAST = (-1, _RANK - 1)
_CONTRIB = "com.microsoft"

_ELEMENTWISE = frozenset(
    {
        "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid",
        "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Pow",
        "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Sqrt", "Sub", "Sum",
        "Swish", "Tanh", "Where",
    }
)  # fmt: skip
# The inputs that hold tokens; all others hold weights or what all tokens share.
_TOKEN_INPUTS: dict[tuple[str, str], tuple[int, ...]] = {
    ("", "MatMul"): (0,),
    ("", "MatMulInteger"): (0,),
    ("", "LayerNormalization"): (0,),
    ("", "RMSNormalization"): (0,),
    ("", "SimplifiedLayerNormalization"): (0,),
    ("", "QuantizeLinear"): (0,),
    ("", "DequantizeLinear"): (0,),
    ("", "ReduceMax"): (0,),
    ("", "ReduceMin"): (0,),
    ("", "ReduceSum"): (0,),
    ("", "ReduceMean"): (0,),
    ("", "Gather"): (0,),
    ("", "Softmax"): (0,),
    (_CONTRIB, "MatMulNBits"): (0,),
    (_CONTRIB, "MatMulIntegerToFloat"): (0,),
    (_CONTRIB, "SkipSimplifiedLayerNormalization"): (0, 1),
    (_CONTRIB, "SkipLayerNormalization"): (0, 1),
    (_CONTRIB, "Gelu"): (0,),
    (_CONTRIB, "QuickGelu"): (0,),
}
# What the axis of such an operator is where it is not written.
_AXES = {
    "LayerNormalization": -1,
    "RMSNormalization": -1,
    "SimplifiedLayerNormalization": -1,
    "QuantizeLinear": -1,
    "DequantizeLinear": -1,
    "Softmax": -1,
    "Gather": 0,
}
_WHOLE_TENSOR = ("QuantizePerTensor", "QuantizePerTensorAsymmetric")  # one scale for all tokens


class TokenValues:
    """The values of a graph that hold a row for each token, [batch, sequence, width]."""

    def __init__(self, graph: gs.Graph) -> None:
        self._varying = {id(value) for value in graph.inputs}
        self._of_tokens = {id(v) for v in graph.inputs if _has_token_axis(v, otherwise=False)}
        for node in _nodes(graph):
            if not any(id(value) in self._varying for value in node.inputs):
                continue
            made = [value for value in node.outputs if not value.is_empty()]
            self._varying.update(id(value) for value in made)
            per_token = self.read_by(node) is not None
            for value in made:
                if _has_token_axis(value, otherwise=per_token):
                    self._of_tokens.add(id(value))

    def read_by(self, node: gs.Node) -> list[gs.Variable] | None:
        """Return the values that hold tokens among what `node` reads.

        None where it does not compute each token from that token alone, or is not known to.
        """
        places = _token_inputs(node)
        if places is None:
            return None
        read = [value for value in node.inputs if id(value) in self._of_tokens]
        own = [node.inputs[i] for i in places if i < len(node.inputs)]
        expected = {id(value) for value in own}
        if not read or any(id(value) not in expected for value in read):
            return None
        if any(self._is_unknown(value) for value in own):
            return None
        return list({id(value): value for value in read}.values())

    def _is_unknown(self, value: gs.Tensor) -> bool:
        """Return whether a value may hold tokens, for all that is known of it."""
        varies = id(value) in self._varying and id(value) not in self._of_tokens
        return varies and value.shape is None


def _nodes(graph: gs.Graph) -> Iterator[gs.Node]:
    """Yield the nodes of a graph in order, those of its branches before what reads their result."""
    for node in graph.nodes:
        for branch in subgraphs(node):
            yield from _nodes(branch)
        yield node


def subgraphs(node: gs.Node) -> list[gs.Graph]:
    """Return the graphs inside of a node."""
    return [value for value in node.attrs.values() if isinstance(value, gs.Graph)]


def _has_token_axis(value: gs.Variable, *, otherwise: bool) -> bool:
    if value.shape is None:  # nodes of other domains have no shape inference
        return otherwise
    return len(value.shape) == _RANK and not isinstance(value.shape[_TOKENS], int)


def _token_inputs(node: gs.Node) -> tuple[int, ...] | None:
    every = tuple(range(len(node.inputs)))
    if node.domain == DOMAIN:
        return None if node.op in _WHOLE_TENSOR else every
    if not node.domain and node.op in _ELEMENTWISE:
        return every
    places = _TOKEN_INPUTS.get((node.domain or "", node.op))
    return places if places is not None and _along_width(node) else None


def _along_width(node: gs.Node) -> bool:
    """Return whether the axis that an operator works along is the last one."""
    if node.op.startswith("Reduce"):
        axes = node.inputs[1] if len(node.inputs) > 1 else None
        if not isinstance(axes, gs.Constant) or not node.attrs.get("keepdims", 1):
            return False
        return axes.values.ravel().tolist() in ([-1], [_RANK - 1])
    if node.op in ("QuantizeLinear", "DequantizeLinear") and not node.inputs[1].shape:
        return True  # one scale has no axis
    axis = node.attrs.get("axis", _AXES.get(node.op, -1))
    return axis in _LAST
