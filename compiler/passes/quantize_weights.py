"""Quantize weights: each chosen matrix becomes codes behind a DequantizeLinear."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import onnx_ir as ir

from castline.compiler.graph.linears import Linear, linears
from castline.compiler.graph.stacked import routers, stacked_linears
from castline.compiler.passes.initializers import add_initializer
from castline.compiler.passes.promised_matrix import PromisedParts
from castline.compiler.passes.quantize_stack import quantize_stack
from castline.compiler.passes.replace import remove_unused
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.round_to_nearest import quantize
from castline.compiler.quant.scheme import WeightScheme

CODE_TYPES = {
    (4, True): ir.DataType.INT4,
    (4, False): ir.DataType.UINT4,
    (8, True): ir.DataType.INT8,
    (8, False): ir.DataType.UINT8,
}


@dataclass
class Quantized:
    """What a run of the pass did, for the outcome."""

    names: list[str] = field(default_factory=list)
    """The matrices that were quantized."""

    regrouped: Counter[tuple[int, int | None]] = field(default_factory=Counter)
    """(K, group used instead, None for per channel) -> number of matrices."""

    left: Counter[str] = field(default_factory=Counter)
    """Why a matrix stays in float -> number of matrices."""

    def add(self, name: str, k: int, scheme: WeightScheme, matrices: int = 1) -> None:
        """Note a matrix of input dimension `k`, or a stack of them, and its group if it changed."""
        self.names.append(name)
        group = scheme.group_for(k)
        if group != scheme.group_size:
            self.regrouped[k, group] += matrices

    def notes(self, scheme: WeightScheme) -> tuple[str, ...]:
        """Return a sentence for every K that the group does not divide, and for what is left."""
        regrouped = tuple(
            f"group {scheme.group_size} does not divide K = {k}: "
            f"{'one scale per channel' if group is None else f'group {group}'} "
            f"used for {count} {'matrix' if count == 1 else 'matrices'}"
            for (k, group), count in sorted(self.regrouped.items(), key=lambda item: item[0][0])
        )
        return regrouped + tuple(
            f"{count} {'matrix stays' if count == 1 else 'matrices stay'} in float: {reason}"
            for reason, count in self.left.items()
        )


@dataclass(frozen=True)
class QuantizeWeights:
    """Round-to-nearest quantization of the linears of the layers, or of the head.

    The linears of experts belong to the layers. Left in float is what is small and decides much:
    routers, and gates of a single output.
    """

    scheme: WeightScheme
    head: bool = False
    """Whether the head is meant, and not the layers."""

    def __call__(self, model: ir.Model) -> Quantized:
        """Rewrite `model` in place; nothing is read before the model is written."""
        done = Quantized()
        choosing = routers(model)
        for linear in linears(model):
            if linear.is_head != self.head:
                continue
            if linear.node in choosing or linear.n == 1:
                done.left["it chooses experts" if linear.n > 1 else "it has a single output"] += 1
                continue
            _quantize(model.graph, linear, self.scheme)
            done.add(linear.name, linear.k, self.scheme)
        for stack in () if self.head else stacked_linears(model):
            if stack.dequantize is None:
                code_type = CODE_TYPES[self.scheme.bits, self.scheme.symmetric]
                quantize_stack(model.graph, stack, self.scheme, code_type)
                done.add(stack.name, stack.k, self.scheme, stack.experts)
        return done


def _quantize(graph: ir.Graph, linear: Linear, scheme: WeightScheme) -> None:
    weight = linear.weight
    codes, scales, zero_points = _promised(linear, scheme)
    parts = [codes, scales] if zero_points is None else [codes, scales, zero_points]
    for part in parts:
        add_initializer(graph, part)
    group = scheme.group_for(linear.k)
    attributes = {"axis": 1} if group is None else {"axis": 0, "block_size": group}
    path = str(linear.node.name).rpartition("/")[0]
    node = ir.node("DequantizeLinear", parts, attributes, name=f"{path}/DequantizeLinear")
    dequantized = node.outputs[0]
    dequantized.name = f"{path}/DequantizeLinear_output_0"
    dequantized.shape = ir.Shape([linear.k, linear.n])
    dequantized.type = ir.TensorType(weight.dtype or ir.DataType.FLOAT)
    graph.insert_before(linear.node, node)
    previous = linear.node.inputs[1]
    assert previous is not None, "MatMul has two inputs"
    linear.node.replace_input_with(1, dequantized)
    producer = previous.producer()
    if producer is not None:
        remove_unused(graph, [producer])
    elif not weight.consumers():
        graph.initializers.pop(str(weight.name))


def _promised(linear: Linear, scheme: WeightScheme) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    tensor = linear.weight.const_value
    assert tensor is not None, "initializers have tensors"
    float_type = linear.weight.dtype or ir.DataType.FLOAT
    group = scheme.group_for(linear.k)

    def compute() -> tuple[Array, ...]:
        weights = tensor.numpy()
        matrix = quantize(weights.T if linear.transposed else weights, scheme, float_type.numpy())
        parts = (matrix.codes, matrix.scales, matrix.zero_points)
        flat = parts if group is not None else (parts[0], *(_row(p) for p in parts[1:]))
        return tuple(part for part in flat if part is not None)

    promised = PromisedParts(compute, parts=2 if scheme.symmetric else 3)
    code_type = CODE_TYPES[scheme.bits, scheme.symmetric]
    scale_shape = (linear.n,) if group is None else (linear.k // group, linear.n)
    codes = promised.promise(0, code_type, (linear.k, linear.n), f"{linear.name}_quantized")
    scales = promised.promise(1, float_type, scale_shape, f"{linear.name}_scale")
    if scheme.symmetric:
        return codes, scales, None
    return codes, scales, promised.promise(2, code_type, scale_shape, f"{linear.name}_zero_point")


def _row(part: Array | None) -> Array | None:
    """Return [1, N] as [N]: per-channel DequantizeLinear takes a vector."""
    return None if part is None else part[0]
