"""Answer for the linears of a folded block as the quantized model will compute them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch

from castline.compiler.graph.folds.site import Site
from castline.compiler.plan.decisions import PlannedBlock, PlannedLinear
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import dequantize
from castline.compiler.search.folding import fold
from castline.compiler.search.linear_calls import LinearCall
from castline.compiler.search.observation import Reader
from castline.compiler.search.placed_channels import PlacedChannels
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.student import StudentLinear

Tensor: TypeAlias = torch.Tensor


class PlannedLinears:
    """Computes y = Q(x) Q(W)^T + bias by the grids and codes of a plan; an answer for LinearCalls.

    The quantized weights are kept, so that many batches are answered from one rounding.
    """

    def __init__(self, block: PlannedBlock) -> None:
        self._linears = {linear.name: linear for linear in block.linears if is_quantized(linear)}
        self._codes = block.codes
        self._divisors = {
            name: torch.from_numpy(site.channel_scale).float()
            for site in block.sites
            if site.explicit and site.channel_scale is not None
            for name in site.linears
        }
        self._maps = {
            name: site.reassembly.channels
            for site in block.sites
            if site.reassembly is not None
            for name in site.reassembly.linears
        }
        self._places: dict[int, PlacedChannels] = {}
        self._weights: dict[Reader, Tensor] = {}

    @property
    def names(self) -> frozenset[str]:
        """The weights of its quantized linears."""
        return frozenset(self._linears)

    def __call__(self, call: LinearCall) -> Tensor:
        """Return the product [..., N] of a quantized linear."""
        linear = self._linears[call.name]
        quantizer = Quantizer(linear.weights, linear.activations)
        reader = (call.name, call.expert)
        if reader not in self._weights:
            self._weights |= self._stored(call) or {reader: quantizer.weight(call.weight)}
        x = call.x
        if call.name in self._divisors:
            x = x / self._divisors[call.name].to(x.device)
        places = self._placed(call.name, x.device)
        if places is not None:
            x = places.of_values(x)
        return call.answer(quantizer.read(x, linear.parameters), self._weights[reader])

    def students(self, parameters: Mapping[str, Tensor]) -> dict[Reader, StudentLinear]:
        """Return its linears whose codes are known, as they learn; `parameters` are the block's."""
        found: dict[Reader, StudentLinear] = {}
        for name, codes in self._codes.items():
            linear, device = self._linears[name], parameters[name].device
            quantizer = Quantizer(linear.weights, linear.activations)
            for reader, weight in _matrices(
                name, codes, device, stacked=parameters[name].ndim == 3
            ).items():
                places = self._placed(name, device)
                found[reader] = StudentLinear(weight, quantizer, places, linear.parameters)
        return found

    def _placed(self, name: str, device: torch.device) -> PlacedChannels | None:
        """Return the reassembly of what a linear reads, one object for all that share it."""
        channels = self._maps.get(name)
        if channels is None:
            return None
        if id(channels) not in self._places:
            self._places[id(channels)] = PlacedChannels.on(device, channels)
        return self._places[id(channels)]

    def _stored(self, call: LinearCall) -> dict[Reader, Tensor]:
        """Return what the codes of a linear stand for, all of a stack's; none if it has none."""
        codes = self._codes.get(call.name)
        if codes is None:
            return {}
        return _matrices(call.name, codes, call.weight.device, stacked=call.expert is not None)


def _matrices(
    name: str, codes: GivenCodes, device: torch.device, *, stacked: bool
) -> dict[Reader, Tensor]:
    """Return what codes stand for, [N, K] each."""
    matrices = (torch.from_numpy(dequantize(matrix).T) for matrix in codes.matrices())
    return {
        (name, place if stacked else None): matrix.to(device)
        for place, matrix in enumerate(matrices)
    }


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
        if planned.scale is None or planned.explicit:
            continue
        fold(sites[planned.site], planned.scale, parameters)
