"""Let the gain of a norm multiply channels that are reassembled: they are then only placed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.parameters import Parameter
from castline.compiler.graph.folds.sources import NORMS, source
from castline.compiler.passes.fold import edit_parameter
from castline.compiler.passes.initializers import shared_constant
from castline.compiler.quant.arrays import Array
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS


@dataclass(frozen=True)
class FactorsIntoGain:
    """A norm that one castline.ReassembleChannels alone reads multiplies its channels beforehand.

    A channel at T places is multiplied by 1/T at each, one of n at a place by 1/n: by one number
    everywhere, which the gain takes, and the bias if there is one. The op is left with factors of
    1, which runtimes drop.

    Source: Liu et al., QLLM, arXiv:2310.08041, appendix B, which fuses into linears. Differs: after
    a norm the gain alone can be changed, as the variance is that of all channels before.
    """

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Rewrite `model` in place; return the reassemblies left alone, with the reason."""
        declined: dict[str, str] = {}
        for node in list(model.graph):
            if not REASSEMBLE_CHANNELS.is_op_of(node):
                continue
            factors = channel_factors(node)
            parameters = _parameters(node, factors)
            if factors is None or isinstance(parameters, str):
                declined[str(node.name)] = str(parameters)
                continue
            for parameter in parameters:
                edit = parameter.edit(np.arange(len(factors)), (0,), multiply=True)
                edit_parameter(model, edit, factors)
            _leave_ones(model.graph, node)
        return declined


def channel_factors(node: ir.Node) -> Array | None:
    """Return what a castline.ReassembleChannels multiplies each channel by, float32 [K].

    Channels that stand nowhere have 1; None where one has several factors.
    """
    gather, scale, _, channel, channel_scale = map_of(node)
    factors = np.ones(len(gather), np.float32)
    scale = np.broadcast_to(scale, gather.shape)
    factors[gather], factors[channel] = scale, channel_scale
    same = (factors[gather] == scale).all() and (factors[channel] == channel_scale).all()
    return factors if same else None


def map_of(node: ir.Node) -> tuple[Array, ...]:
    """Return the constants that a castline.ReassembleChannels reads beside its value."""
    tensors = [ir.convenience.get_const_tensor(v) for v in node.inputs[1:] if v is not None]
    found = tuple(tensor.numpy() for tensor in tensors if tensor is not None)
    assert len(found) == len(node.inputs) - 1, "ReassembleInputs writes constants"
    return found


def _parameters(node: ir.Node, factors: Array | None) -> list[Parameter] | str:
    """Return what of a norm takes the factors, or why nothing does."""
    value = node.inputs[0]
    norm = value.producer() if value is not None else None
    if value is None or norm is None or norm.domain != "" or norm.op_type not in NORMS:
        return "no norm makes the value"
    if factors is None:
        return "a channel has several factors"
    if (factors == 1).all():
        return "all factors are 1"
    if value.is_graph_output() or len(value.uses()) > 1:
        return "others read the value as it is"
    found = source(norm)
    if found is None or found.count != len(factors):
        return "the gain of the norm is computed"
    parameters = [parameter for parameter, _ in found.parameters]
    if any(parameter.others for parameter in parameters):
        return "others read the gain"
    return parameters


def _leave_ones(graph: ir.Graph, node: ir.Node) -> None:
    more = node.inputs[5]
    assert more is not None, "ReassembleInputs writes constants"
    assert more.const_value is not None, "ReassembleInputs writes constants"
    ones = shared_constant(graph, "unit_scale", np.array(1, np.float32))
    count = more.const_value.size
    for place, one in (
        (2, ones),
        (5, shared_constant(graph, f"unit_scales_{count}", np.ones(count, np.float32))),
    ):
        old = node.inputs[place]
        node.replace_input_with(place, one)
        if old is not None and not old.consumers():
            graph.initializers.pop(str(old.name))
