"""Let the scales of weights multiply channels that are reassembled: they are then only placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.channel_factors import channel_factors, leave_ones, reassemblies
from castline.compiler.quant.arrays import Array
from castline.plugins.catalogue import INTEGER_LINEARS

_SCALE = "weight_scale"


@dataclass(frozen=True)
class FactorsIntoScales:
    """A linear whose rows one castline.ReassembleChannels alone reads multiplies them beforehand.

    It is one of the two whose product a gated feed-forward part is, or makes the value by itself.
    The codes of its weights stay: a row has a scale of its own, which takes the factor of the
    channel. Scales are float32, so nothing but a last bit is lost. The op is left with factors of
    1, which runtimes drop; what it places stays, as no row is a sum of others behind a gate.

    Source: Liu et al., QLLM, arXiv:2310.08041, appendix B, which fuses whole reassemblies into
    linears. Differs: there, rows may be merged; behind the product of two linears they may not.
    """

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Rewrite `model` in place; return the reassemblies left alone, with the reason."""
        declined: dict[str, str] = {}
        for node in reassemblies(model):
            factors = channel_factors(node)
            scale = _scale(node, factors)
            if factors is None or isinstance(scale, str):
                declined[str(node.name)] = str(scale)
                continue
            _multiply(scale, factors)
            leave_ones(model.graph, node)
        return declined


def _scale(node: ir.Node, factors: Array | None) -> ir.Value | str:
    """Return the scales [K] that take the factors [K], or why none do."""
    if factors is None:
        return "a channel has several factors"
    if (factors == 1).all():
        return "all factors are 1"
    value = node.inputs[0]
    assert value is not None, "the op has a value"
    gate = value.producer()
    made: Sequence[ir.Value | None] = (value,)
    if gate is not None and gate.op_type == "Mul":
        if _read_elsewhere(value):
            return "others read the value as it is"
        made = gate.inputs
    scales = [scale for each in made if (scale := _row_scales(each)) is not None]
    if not scales:
        return "no linear in codes makes the value"
    for scale in scales:
        if scale.shape == factors.shape and scale.dtype == ir.DataType.FLOAT:
            return scale
    return "its rows have no float32 scales"


def _row_scales(value: ir.Value | None) -> ir.Value | None:
    """Return the scales of the linear in codes that makes a value for one reader."""
    linear = None if value is None else value.producer()
    op = next((op for op in INTEGER_LINEARS if op.is_op_of(linear)), None)
    if value is None or linear is None or op is None or _read_elsewhere(value):
        return None
    scale = linear.inputs[op.inputs.index(_SCALE)]
    return None if scale is None or len(scale.uses()) > 1 else scale


def _read_elsewhere(value: ir.Value) -> bool:
    return value.is_graph_output() or len(value.uses()) > 1


def _multiply(scale: ir.Value, factors: Array) -> None:
    tensor = scale.const_value
    assert tensor is not None, "scales of weights are constants"

    def multiplied() -> ir.TensorProtocol:
        return ir.Tensor(np.multiply(tensor.numpy(), factors), name=scale.name)

    scale.const_value = ir.LazyTensor(
        multiplied, dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=scale.name
    )
