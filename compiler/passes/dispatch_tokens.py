"""Give each expert only the tokens that chose it, in standard operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from castline.compiler.graph.experts import DenseExperts, bias_of_experts, dense_experts
from castline.compiler.graph.stacked import StackedLinear
from castline.compiler.passes.expert_weights import expert_by_expert, group_of, stacks
from castline.compiler.passes.initializers import add_initializer
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.promised_experts import PromisedExperts
from castline.compiler.passes.replace import remove_unused, take_over
from castline.compiler.quant.arrays import Array


@dataclass(frozen=True)
class DispatchTokens:
    """Sort the tokens by expert, split them, multiply each part by one expert's matrix, and join.

    A token that k experts get is there k times. The matrices are no stack any more: a runtime packs
    each for its kernel, and those of experts that nobody chose multiply no rows. What stands
    between the products (activation, biases) works on all rows at once, as it did.
    """

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Rewrite `model` in place; return the mixtures left dense, with the reason."""
        found, declined = dense_experts(model)
        for experts in found:
            _lower(model.graph, experts)
        if found:
            model.graph.sort()
        return declined


def _lower(graph: ir.Graph, experts: DenseExperts) -> None:
    rows = _Rows(graph, experts)
    old = [experts.output.producer(), *(linear.node for linear in experts.linears)]
    for node in (*experts.between, *(linear.node for linear in experts.linears)):
        for position, value in enumerate(node.inputs):
            bias = bias_of_experts(value)
            if value is experts.rows:
                node.replace_input_with(position, rows.hidden)
            elif bias is not None:
                node.replace_input_with(position, rows.bias(bias))
    for value in (value for node in experts.between for value in node.outputs):
        value.shape = _per_row(value)
    answers = experts.answers
    for linear in experts.linears:
        product = rows.product(linear)
        answers = product if linear.node.outputs[0] is answers else answers
    take_over(experts.output, rows.by_token(answers))
    remove_unused(graph, [node for node in old if node is not None])


def _per_row(value: ir.Value) -> ir.Shape:
    assert value.shape is not None, "the trace gives shapes"
    return ir.Shape([1, None, value.shape[-1]])


class _Rows:
    """The tokens of one mixture, a row for each expert that a token chose, sorted by expert."""

    def __init__(self, graph: ir.Graph, experts: DenseExperts) -> None:
        self._graph = graph
        self._experts = experts
        self._write = NodeWriter(graph, f"{experts.name}/dispatch", experts.linears[0].node)
        add, number = self._write.add, self._write.constant
        self._first = number("first", [0])
        chosen = add("Reshape", [experts.index, number("flat", [-1])])
        self._length = add("Shape", [chosen])
        smallest_first = {"axis": 0, "largest": 0}
        self._expert, self._order = self._write.several(
            "TopK", [chosen, self._length], smallest_first, 2
        )
        ones = add("Expand", [number("one", [1]), self._length])
        nobody = number("nobody", [0] * experts.experts)
        self._counts = add(
            "ScatterElements", [nobody, chosen, ones], {"axis": 0, "reduction": "add"}
        )
        token = add("Div", [self._order, number("chosen", [experts.chosen])])
        gathered = add("Gather", [experts.hidden, token], {"axis": 0})
        self.hidden = add("Unsqueeze", [gathered, self._first])

    def bias(self, stored: ir.Value) -> ir.Value:
        """Return [1, rows, N]: for each row that of its expert, from `stored` [E, N]."""
        gathered = self._write.add("Gather", [stored, self._expert], {"axis": 0})
        return self._write.add("Unsqueeze", [gathered, self._first])

    def product(self, linear: StackedLinear) -> ir.Value:
        """Return [1, rows, N]: each row multiplied by the matrix of its expert."""
        source = linear.node.inputs[0]
        parts = self._write.several("Split", [source, self._counts], {"axis": 1}, linear.experts)
        matrices = self._matrices(linear)
        products = [
            self._write.add("MatMul", [part, matrix])
            for part, matrix in zip(parts, matrices, strict=True)
        ]
        joined = self._write.add("Concat", products, {"axis": 1})
        take_over(linear.node.outputs[0], joined)
        joined.shape = _per_row(joined)
        return joined

    def by_token(self, answers: ir.Value) -> ir.Value:
        """Return [T, H]: the weighted sum over the rows of each token, of answers [1, rows, H]."""
        add, number = self._write.add, self._write.constant
        steps = [number("zero", 0), add("Squeeze", [self._length]), number("step", 1)]
        places = add("Range", steps)
        back = add("ScatterElements", [self._order, self._order, places], {"axis": 0})
        ordered = add("Gather", [answers, back], {"axis": 1})
        assert answers.shape is not None, "product gave it one"
        width = answers.shape[2]
        assert isinstance(width, int), "matrices have static shapes"
        by_token = number("by_token", [-1, self._experts.chosen, width])
        choices = add("Reshape", [ordered, by_token])
        weights = add("Unsqueeze", [self._experts.weights, number("last", [-1])])
        weighted = add("Mul", [choices, weights])
        return add("ReduceSum", [weighted, number("second", [1])], {"keepdims": 0})

    def _matrices(self, linear: StackedLinear) -> list[ir.Value]:
        """Return the matrix [K, N] of each expert: an initializer, or dequantized codes."""
        whole = stacks(linear)
        promised = PromisedExperts(_alone(linear), len(whole))
        matrices = []
        for expert in range(linear.experts):
            values = []
            for part, stack in enumerate(whole):
                dtype = stack.dtype or ir.DataType.FLOAT
                name = f"{stack.name}.{expert}"
                value = promised.one(part, expert, dtype, _shape(linear, stack), name)
                values.append(add_initializer(self._graph, value))
            matrices.append(self._dequantized(linear, values))
        return matrices

    def _dequantized(self, linear: StackedLinear, values: Sequence[ir.Value]) -> ir.Value:
        if linear.dequantize is None:
            return values[0]
        groups = {"axis": 0, "block_size": group_of(linear)}
        attributes = {"axis": 1} if _is_per_channel(linear) else groups
        matrix = self._write.add("DequantizeLinear", values, attributes)
        matrix.shape = ir.Shape([linear.k, linear.n])
        matrix.type = linear.dequantize.outputs[0].type
        return matrix


def _is_per_channel(linear: StackedLinear) -> bool:
    return linear.dequantize is not None and group_of(linear) == linear.k


def _alone(linear: StackedLinear) -> Callable[[], Iterator[tuple[Array, ...]]]:
    """Return what yields each expert's matrix; one scale per channel is a vector there."""
    read = expert_by_expert(linear)
    if not _is_per_channel(linear):
        return read
    return lambda: ((codes, *(part[0] for part in parts)) for codes, *parts in read())


def _shape(linear: StackedLinear, stack: ir.Value) -> tuple[int, ...]:
    assert stack.shape is not None, "initializers have shapes"
    _, *shape = (int(size) for size in stack.shape.numpy())
    return tuple(shape[1:] if _is_per_channel(linear) and stack is not linear.stored else shape)
