"""Quantize weights: each chosen matrix becomes codes behind a DequantizeLinear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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
from castline.compiler.quant.scheme import GroupSize, WeightScheme

CODE_TYPES = {
    # Bits that codes are stored in and whether the grid is symmetric; fewer bits leave codes unused
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

    regrouped: Counter[tuple[int, GroupSize]] = field(default_factory=Counter)
    """(K, group used instead) -> number of matrices."""

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
            f"{f'group {group}' if isinstance(group, int) else 'one scale per channel'} "
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

    kept: Mapping[str, str] = field(default_factory=dict)
    """Name of a weight that stays in float -> why, as a clause."""

    def __call__(self, model: ir.Model) -> Quantized:
        """Rewrite `model` in place; nothing is read before the model is written."""
        done = Quantized()
        choosing = routers(model)
        for linear in linears(model):
            if linear.is_head != self.head:
                continue
            reason = self.kept.get(linear.name, _needs_float(linear, choosing))
            if reason is not None:
                done.left[reason] += 1
                continue
            _quantize(model.graph, linear, self.scheme)
            done.add(linear.name, linear.k, self.scheme)
        for stack in () if self.head else stacked_linears(model):
            if stack.dequantize is not None:
                continue
            if stack.name in self.kept:
                done.left[self.kept[stack.name]] += stack.experts
                continue
            quantize_stack(model.graph, stack, self.scheme, code_type(self.scheme))
            done.add(stack.name, stack.k, self.scheme, stack.experts)
        return done


def code_type(scheme: WeightScheme) -> ir.DataType:
    """Return the type that codes are stored in: of 2 to 4 bits in 4, of 5 to 8 bits in 8."""
    return CODE_TYPES[scheme.storage_bits, scheme.symmetric]


def _needs_float(linear: Linear, choosing: frozenset[ir.Node]) -> str | None:
    """Return why a linear is never quantized, or None where it may be."""
    if linear.n == 1:
        return "it has a single output"
    return "it chooses experts" if linear.node in choosing else None


def _quantize(graph: ir.Graph, linear: Linear, scheme: WeightScheme) -> None:
    weight = linear.weight
    codes, scales, zero_points = _promised(linear, scheme)
    parts = [codes, scales] if zero_points is None else [codes, scales, zero_points]
    for part in parts:
        add_initializer(graph, part)
    attributes = _granularity(scheme.group_for(linear.k))
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


def _granularity(group: GroupSize) -> dict[str, int]:
    """Return the attributes of a DequantizeLinear of codes [K, N]."""
    if isinstance(group, int):
        return {"axis": 0, "block_size": group}
    return {"axis": 1} if group == "per-channel" else {}


def _promised(linear: Linear, scheme: WeightScheme) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    tensor = linear.weight.const_value
    assert tensor is not None, "initializers have tensors"
    float_type = linear.weight.dtype or ir.DataType.FLOAT
    scale_shape = _scale_shape(scheme.group_for(linear.k), linear.k, linear.n)

    def compute() -> tuple[Array, ...]:
        weights = tensor.numpy()
        matrix = quantize(weights.T if linear.transposed else weights, scheme, float_type.numpy())
        parts = (matrix.codes, matrix.scales, matrix.zero_points)
        codes, *rest = (part for part in parts if part is not None)
        return codes, *(part.reshape(scale_shape) for part in rest)

    promised = PromisedParts(compute, parts=2 if scheme.symmetric else 3)
    stored = code_type(scheme)
    codes = promised.promise(0, stored, (linear.k, linear.n), f"{linear.name}_quantized")
    scales = promised.promise(1, float_type, scale_shape, f"{linear.name}_scale")
    if scheme.symmetric:
        return codes, scales, None
    return codes, scales, promised.promise(2, stored, scale_shape, f"{linear.name}_zero_point")


def _scale_shape(group: GroupSize, k: int, n: int) -> tuple[int, ...]:
    """Return what DequantizeLinear takes: a matrix of groups, a vector of channels or a scalar."""
    if isinstance(group, int):
        return k // group, n
    return (n,) if group == "per-channel" else ()
