"""Answer for the linears of a folded block as the quantized model will compute them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch

from castline.compiler.graph.folds.site import Site
from castline.compiler.plan.decisions import PlannedBlock, PlannedLinear
from castline.compiler.search.folding import fold
from castline.compiler.search.linear_calls import LinearCall
from castline.compiler.search.quantizer import Quantizer

Tensor: TypeAlias = torch.Tensor


class PlannedLinears:
    """Computes y = Q(x) Q(W)^T + bias by the grids Q of a plan; an answer for LinearCalls.

    The quantized weights are kept, so that many batches are answered from one rounding.
    """

    def __init__(self, block: PlannedBlock) -> None:
        self._linears = {linear.name: linear for linear in block.linears if is_quantized(linear)}
        self._weights: dict[tuple[str, int | None], Tensor] = {}

    @property
    def names(self) -> frozenset[str]:
        """The weights of its quantized linears."""
        return frozenset(self._linears)

    def __call__(self, call: LinearCall) -> Tensor:
        """Return the product [..., N] of a quantized linear."""
        linear = self._linears[call.name]
        quantizer = Quantizer(linear.weights, linear.activations)
        key = (call.name, call.expert)
        if key not in self._weights:
            self._weights[key] = quantizer.weight(call.weight)
        return call.answer(x=quantizer.read(call.x, linear.parameters), weight=self._weights[key])


def is_quantized(linear: PlannedLinear) -> bool:
    """Return whether a linear is computed otherwise than in float."""
    return linear.weights is not None or linear.activations is not None


def fold_planned(
    block: PlannedBlock, sites: Mapping[str, Site], parameters: Mapping[str, Tensor]
) -> None:
    """Fold the scales that a plan has for a block into its `parameters`, in place.

    `sites` has the graph's by the names of their values. What the block computes stays the same.
    """
    for planned in block.sites:
        if planned.scale is None:
            continue
        fold(sites[planned.site], planned.scale, parameters)
