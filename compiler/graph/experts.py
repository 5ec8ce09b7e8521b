"""Recognize a mixture of experts that the exporter wrote densely: every expert on every token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from castline.compiler.graph.stacked import StackedLinear, stacked_linear
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS

# Operators that treat the tokens (axis 1 of 3) alike and apart, whatever else they read is scalar.
_ELEMENTWISE = (
    "Abs Add Cast Clip Div Elu Erf Exp Gelu HardSigmoid HardSwish Max Min Mul Neg Pow Reciprocal "
    "Relu Sigmoid Softplus Sqrt Sub Swish Tanh"
)
_LAST = (-1, 2)


@dataclass(frozen=True)
class DenseExperts:
    """From the tokens to the weighted sum of all experts' answers."""

    hidden: ir.Value
    """[T, H], the tokens."""
    rows: ir.Value
    """[1, T, H], the same as every expert reads it."""
    index: ir.Value
    """int64 [T, k], the experts that the router chose for each token, distinct in a row."""
    weights: ir.Value
    """[T, k], what their answers weigh."""
    nothing: ir.Value
    """[T, E] zeros, of the type of `weights`."""
    routing: ir.Value
    """[T, E], the weights in their experts' places, and zeros."""
    linears: tuple[StackedLinear, ...]
    """In the order that tokens pass them."""
    between: tuple[ir.Node, ...]
    """Everything else from `rows` to `answers`: activations, biases and perhaps norms."""
    answers: ir.Value
    """[E, T, H], not weighted yet."""
    output: ir.Value
    """[T, H]."""

    @property
    def name(self) -> str:
        """Path of the node that sums, without that node's own name."""
        producer = self.output.producer()
        assert producer is not None, "a sum is computed"
        return str(producer.name).rpartition("/")[0]

    @property
    def experts(self) -> int:
        """How many there are."""
        return self.linears[0].experts

    @property
    def chosen(self) -> int:
        """How many of them each token gets."""
        assert self.index.shape is not None, "dense_experts saw to it"
        count = self.index.shape[1]
        assert isinstance(count, int), "dense_experts saw to it"
        return count


def dense_experts(model: ir.Model) -> tuple[tuple[DenseExperts, ...], dict[str, str]]:
    """Return every mixture that is recognized, and the name of each other with the reason."""
    found, declined = [], {}
    for node in model.graph:
        routed = _routed_sum(node)
        if routed is None:
            continue
        answers, scatter = routed
        experts = _recognize(node.outputs[0], answers, scatter)
        if isinstance(experts, str):
            declined[str(node.name)] = experts
        else:
            found.append(experts)
    return tuple(found), declined


def _routed_sum(node: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """Return the answers [E, T, H] that a node sums, and the node that scatters what they weigh."""
    if node.op_type != "ReduceSum" or node.attributes.get_int("keepdims", 1) != 0:
        return None
    product = _producer(node.inputs[0], "Mul")
    if product is None or _constants(node.inputs[1]) != [0]:
        return None
    for answers, weights in (product.inputs, reversed(product.inputs)):
        scatter = _scattered(weights)
        if answers is not None and scatter is not None:
            return answers, scatter
    return None


def _scattered(value: ir.Value | None) -> ir.Node | None:
    """Return the ScatterElements whose [T, E] a value [E, T, 1] is, turned around."""
    if value is None or value.shape is None or len(value.shape) != 3 or value.shape[2] != 1:
        return None
    node = value.producer()
    turned = {"Unsqueeze": 0, "Transpose": 0}
    while node is not None and node.op_type in (*turned, "Cast"):
        if node.op_type in turned:
            turned[node.op_type] += 1
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    if node is None or node.op_type != "ScatterElements" or set(turned.values()) != {1}:
        return None
    if node.attributes.get_int("axis", 0) != 1 or not _is_zero(node.inputs[0]):
        return None
    return node if node.attributes.get_string("reduction", "none") == "none" else None


def _recognize(output: ir.Value, answers: ir.Value, scatter: ir.Node) -> DenseExperts | str:
    nothing, index, weights = scatter.inputs
    assert nothing is not None, "ScatterElements has data"
    assert index is not None, "ScatterElements has indices"
    assert weights is not None, "ScatterElements has updates"
    if index.shape is None or len(index.shape) != 2 or not isinstance(index.shape[1], int):
        return "how many experts a token gets is not known before it runs"
    region = _region(answers)
    if isinstance(region, str):
        return region
    rows, linears, between = region
    unsqueezed = rows.producer()
    assert unsqueezed is not None, "the region ends at an Unsqueeze"
    hidden = unsqueezed.inputs[0]
    assert hidden is not None, "Unsqueeze has an input"
    inside = {*between, *(linear.node for linear in linears)}
    for value in (value for node in inside for value in node.outputs):
        outside = set(value.consumers()) - inside
        if value.is_graph_output() or len(outside) > (value is answers):
            return f"{value.name} is read outside of the experts"
        if value.shape is None or len(value.shape) != 3:
            return f"{value.name} is not known to be of three dimensions"
    return DenseExperts(
        hidden, rows, index, weights, nothing, scatter.outputs[0], linears, between, answers, output
    )


def _region(
    answers: ir.Value,
) -> tuple[ir.Value, tuple[StackedLinear, ...], tuple[ir.Node, ...]] | str:
    """Return the tokens that `answers` follow from, the linears on the way, and all other nodes."""
    rows: set[ir.Value] = set()
    linears: dict[ir.Node, StackedLinear] = {}
    between: dict[ir.Node, None] = {}
    pending = [answers]
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None:
            return f"{value.name} is not computed from the tokens"
        if node in linears or node in between:
            continue
        linear = stacked_linear(node)
        if linear is not None:
            linears[node] = linear
            pending.extend(v for v in node.inputs[:1] if v is not None)
        elif node.op_type == "Unsqueeze" and _constants(node.inputs[1]) == [0]:
            rows.add(value)
        elif _keeps_tokens_apart(node):
            between[node] = None
            pending.extend(v for v in node.inputs if v is not None and not _is_stored(v))
        else:
            return f"{node.op_type} in between may mix tokens"
    if len(rows) != 1 or not linears:
        return "the experts do not all read the same tokens"
    order = {node: place for place, node in enumerate(answers.graph or ())}
    ordered = sorted(linears.values(), key=lambda linear: order[linear.node])
    if len({linear.experts for linear in ordered}) != 1:
        return "its linears are not of the same number of experts"
    return rows.pop(), tuple(ordered), tuple(sorted(between, key=order.__getitem__))


def _keeps_tokens_apart(node: ir.Node) -> bool:
    stored = [value for value in node.inputs if value is not None and _is_stored(value)]
    if node.op_type in _ELEMENTWISE.split():
        return all(bias_of_experts(value) or _is_scalar(value) for value in stored)
    if REASSEMBLE_CHANNELS.is_op_of(node):
        return True
    if node.op_type == "Split":
        return node.attributes.get_int("axis", 0) in _LAST
    if node.op_type == "Slice":
        axes = _constants(node.inputs[3]) if len(node.inputs) > 3 else []
        return len(axes) == 1 and axes[0] in _LAST
    if node.op_type in ("RMSNormalization", "LayerNormalization"):
        return node.attributes.get_int("axis", -1) in _LAST
    return False


def _is_stored(value: ir.Value) -> bool:
    """Return whether a value is an initializer, perhaps cast, or biases [E, 1, N] made of one."""
    cast = _producer(value, "Cast")
    if cast is not None and cast.inputs[0] is not None:
        return _is_stored(cast.inputs[0])
    return value.is_initializer() or bias_of_experts(value) is not None


def bias_of_experts(value: ir.Value | None) -> ir.Value | None:
    """Return the initializer [E, N] that a value [E, 1, N] is made of, or None."""
    node = _producer(value, "Unsqueeze")
    stored = node.inputs[0] if node is not None else None
    if node is None or stored is None or not stored.is_initializer():
        return None
    return stored if _constants(node.inputs[1]) == [1] else None


def _is_scalar(value: ir.Value) -> bool:
    return value.shape is not None and all(size == 1 for size in value.shape)


def _is_zero(value: ir.Value | None) -> bool:
    """Return whether a value is filled with zeros: a constant, expanded and perhaps cast."""
    while value is not None and not value.is_initializer():
        node = value.producer()
        if node is None or node.op_type not in ("Cast", "Expand"):
            return False
        value = node.inputs[0]
    return value is not None and not any(_constants(value))


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def _constants(value: ir.Value | None) -> list[float]:
    """Return the numbers of a constant; [NaN], which equals nothing, for what is computed."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return [float("nan")]
    numbers: Iterable[float] = value.const_value.numpy().reshape(-1)
    return list(numbers)
