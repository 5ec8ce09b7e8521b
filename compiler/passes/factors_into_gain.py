"""Let the gain of a norm multiply channels that are reassembled: they are then only placed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.parameters import Parameter
from castline.compiler.graph.folds.sources import NORMS, source
from castline.compiler.passes.channel_factors import channel_factors, leave_ones, reassemblies
from castline.compiler.passes.fold import edit_parameter
from castline.compiler.quant.arrays import Array


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
        for node in reassemblies(model):
            factors = channel_factors(node)
            parameters = _parameters(node, factors)
            if factors is None or isinstance(parameters, str):
                declined[str(node.name)] = str(parameters)
                continue
            for parameter in parameters:
                edit = parameter.edit(np.arange(len(factors)), (0,), multiply=True)
                edit_parameter(model, edit, factors)
            leave_ones(model.graph, node)
        return declined


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
