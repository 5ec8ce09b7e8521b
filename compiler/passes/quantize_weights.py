"""Quantize weights: each chosen matrix becomes codes behind a DequantizeLinear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import onnx_ir as ir

from castline.compiler.graph.linears import Linear, linears
from castline.compiler.graph.stacked import routers, stacked_linears
from castline.compiler.passes.initializers import add_initializer
from castline.compiler.passes.linear_w4a16 import multiply_with_offsets
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.quantize_stack import quantize_stack, rounded_experts
from castline.compiler.passes.replace import remove_unused
from castline.compiler.passes.weight_codes import block_of, promised_codes, promised_levels
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import QuantizedMatrix, quantize
from castline.compiler.quant.scheme import GroupSize, WeightScheme

NOT_STORED = "the checkpoint stores it in float"


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

    def notes(self, scheme: WeightScheme | None) -> tuple[str, ...]:
        """Return a sentence for every K that the group does not divide, and for what is left."""
        asked = None if scheme is None else scheme.group_size
        regrouped = tuple(
            f"group {asked} does not divide K = {k}: "
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
    """Quantization of the linears of the layers, or of the head: to given codes or to the nearest.

    Scales of two levels are dequantized themselves: integers of groups by scales of channels.
    The linears of experts belong to the layers. Left in float is what is small and decides much:
    routers, and gates of a single output; but what has given codes gets those.
    """

    scheme: WeightScheme | None
    """What a linear without given codes is rounded to; None leaves it in float."""

    head: bool = False
    """Whether the head is meant, and not the layers."""

    kept: Mapping[str, str] = field(default_factory=dict)
    """Name of a weight that stays in float -> why, as a clause."""

    given: Mapping[str, GivenCodes] = field(default_factory=dict)
    """Name of a weight -> its codes, whatever `scheme` and `kept` say."""

    def __call__(self, model: ir.Model) -> Quantized:
        """Rewrite `model` in place; nothing is read before the model is written."""
        done = Quantized()
        choosing = routers(model)
        for linear in linears(model):
            if linear.is_head != self.head:
                continue
            rounded = partial(_rounded, linear)
            codes = self._chosen(linear.name, _needs_float(linear, choosing), rounded)
            if isinstance(codes, str):
                done.left[codes] += 1
                continue
            _quantize(model, linear, codes)
            done.add(linear.name, linear.k, codes.scheme)
        for stack in () if self.head else stacked_linears(model):
            if stack.dequantize is not None:
                continue
            codes = self._chosen(stack.name, None, partial(rounded_experts, stack))
            if isinstance(codes, str):
                done.left[codes] += stack.experts
                continue
            quantize_stack(model, stack, codes)
            done.add(stack.name, stack.k, codes.scheme, stack.experts)
        return done

    def _chosen(
        self, name: str, needs_float: str | None, rounded: Callable[[WeightScheme], GivenCodes]
    ) -> GivenCodes | str:
        """Return the codes of a weight, or why it stays in float."""
        if name in self.given:
            return self.given[name]
        reason = self.kept.get(name, needs_float)
        if reason is not None:
            return reason
        return NOT_STORED if self.scheme is None else rounded(self.scheme)


def _needs_float(linear: Linear, choosing: frozenset[ir.Node]) -> str | None:
    """Return why a linear is never quantized, or None where it may be."""
    if linear.n == 1:
        return "it has a single output"
    return "it chooses experts" if linear.node in choosing else None


def _rounded(linear: Linear, scheme: WeightScheme) -> GivenCodes:
    tensor = linear.weight.const_value
    assert tensor is not None, "initializers have tensors"
    scale_type = tensor.dtype.numpy()

    def matrices() -> tuple[QuantizedMatrix]:
        weights = tensor.numpy()
        return (quantize(weights.T if linear.transposed else weights, scheme, scale_type),)

    return GivenCodes(scheme, matrices)


def _quantize(model: ir.Model, linear: Linear, codes: GivenCodes) -> None:
    graph, node = model.graph, linear.node
    float_type = linear.weight.dtype or ir.DataType.FLOAT
    two_level = codes.scheme.in_two_levels(linear.k)
    promised = promised_levels if two_level else promised_codes
    parts = promised(linear.name, (linear.k, linear.n), codes, float_type)
    for part in parts:
        add_initializer(graph, part)
    group = codes.scheme.group_for(linear.k)
    writer = NodeWriter(graph, str(node.name).rpartition("/")[0], node)
    previous = node.inputs[1]
    assert previous is not None, "MatMul has two inputs"
    if codes.has_offsets:
        multiply_with_offsets(model, node, parts, block_of(group, linear.k), writer)
    else:
        if two_level:
            parts = [parts[0], _scales(parts[1], parts[2], writer)]
        matrix = writer.add("DequantizeLinear", parts, _granularity(group))
        matrix.shape = ir.Shape([linear.k, linear.n])
        matrix.type = ir.TensorType(float_type)
        node.replace_input_with(1, matrix)
    producer = previous.producer()
    if producer is not None:
        remove_unused(graph, [producer])
    elif not previous.consumers() and previous.name in graph.initializers:
        graph.initializers.pop(str(previous.name))


def _scales(group_scale: ir.Value, scale: ir.Value, writer: NodeWriter) -> ir.Value:
    """Return the scales of groups [G, N], in the type of those of channels [N]."""
    scales = writer.add("DequantizeLinear", [group_scale, scale], {"axis": 1})
    scales.shape, scales.type = group_scale.shape, scale.type
    return scales


def _granularity(group: GroupSize) -> dict[str, int]:
    """Return the attributes of a DequantizeLinear of codes [K, N]."""
    if isinstance(group, int):
        return {"axis": 0, "block_size": group}
    return {"axis": 1} if group == "per-channel" else {}
