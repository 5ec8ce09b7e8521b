"""QLLM: take outlier channels of a site apart, as far as that helps what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from castline.compiler.quant.arrays import Array
from castline.compiler.quant.channel_map import ChannelMap, identity
from castline.compiler.quant.scheme import QuantParameters
from castline.compiler.recipes.reassembly import Reassembly
from castline.compiler.search.channel_matching import (
    Metric,
    copies_of,
    distances,
    further_copies,
    matched,
    room_for,
)
from castline.compiler.search.inspection import InspectedModule
from castline.compiler.search.linear_calls import LinearCall
from castline.compiler.search.observation import Observed, Reader
from castline.compiler.search.placed_channels import PlacedChannels
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.site_problem import ReadingLinear, SiteProblem
from castline.compiler.search.squares import sum_of_squares

Tensor: TypeAlias = torch.Tensor

_WORTH = 0.99  # of the error without it: a node in the graph must gain something for its time
_HALVINGS = 50  # of the interval, in logarithms, in which the least threshold lies


@dataclass(frozen=True, eq=False)
class FoundReassembly:
    """The best reassembly of those that were tried; it is better than none."""

    channels: ChannelMap
    threshold: float
    """What no disassembled channel exceeds on the calibration text."""
    metric: Metric
    """By which distance channels were merged."""
    error: float
    """Squared error of the outputs that were compared over their square, all quantized."""
    error_before: float
    """The same with all channels as they are."""


def reassemble(
    problem: SiteProblem,
    quantizer: Quantizer,
    second: Tensor,
    settings: Reassembly,
    module: InspectedModule | None,
) -> FoundReassembly | None:
    """Return the best reassembly of a folded site's channels; None where none gains 1 % and more.

    `problem` has weights that hold the scale and what was read over it; `second` [K, K] is the sum
    of x^T x over that, of all experts together. Errors are those of the output of `module`, in
    which all but the site's quantized linears is float, or else of the outputs of these on the rows
    that were kept. Linears that stay in float read the value as it is. Experts share the map.

    Source: Liu et al., QLLM, arXiv:2310.08041, section 4.1.3 and algorithm 1. Differs: thresholds
    lie in equal ratios down to what the recipe's ratio of merged channels allows, which the paper
    does not bound and the authors' code does; leaving all as it is is always tried, which the code
    does not; of two distances the better is taken; the error is compared at the module's output,
    where the paper compares that of attention without its projection.
    """
    quantized = [one for one in problem.linears if one.quantized]
    read = [(one, one.observed) for one in quantized if one.observed is not None]
    if not read:
        return None
    trial = _Trial(read, quantizer, module)
    before = trial.error(identity(len(second)))
    best: FoundReassembly | None = None
    tried = thresholds(trial.peaks.double().cpu().numpy(), settings)
    for metric in settings.metrics:
        distance = distances(metric, second, [one.weight for one in quantized])
        for threshold, copies in tried:
            channels = matched(copies, distance)
            error = trial.error(channels)
            if error < (_WORTH * before if best is None else best.error):
                best = FoundReassembly(channels, threshold, metric, error, before)
    return best


def thresholds(peaks: Array, settings: Reassembly) -> list[tuple[float, Array]]:
    """Return thresholds below the largest of the peaks [K], with the copies that each one makes.

    They are `settings.steps` in equal ratios, the last of them the least that makes no more further
    copies than settings.ratio * K, nor than channels can be merged for. Those are left out that
    make the same copies as the one before, or as the largest peak, which makes none.
    """
    largest = float(peaks.max())
    if largest == 0:
        return []
    least = _least_threshold(peaks, largest, settings.ratio)
    found: list[tuple[float, Array]] = []
    extra = 0
    for threshold in np.geomspace(largest, least, settings.steps + 1)[1:]:
        copies = copies_of(peaks, float(threshold))
        if further_copies(copies) > extra:
            extra = further_copies(copies)
            found.append((float(threshold), copies))
    return found


def _least_threshold(peaks: Array, largest: float, ratio: float) -> float:
    """Return the least that fits, by bisection: the larger a threshold, the fewer the copies."""
    # At the lower end the largest channel alone takes more copies than there are channels.
    below, above = np.log(largest / (len(peaks) + 2)), np.log(largest)
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        copies = copies_of(peaks, float(np.exp(middle)))
        if further_copies(copies) <= min(ratio * len(copies), room_for(copies)):
            above = middle
        else:
            below = middle
    return float(np.exp(above))


class _Trial:
    """The quantized linears of a site, to read one reassembly of its channels after another."""

    def __init__(
        self,
        read: Sequence[tuple[ReadingLinear, Observed]],
        quantizer: Quantizer,
        module: InspectedModule | None,
    ) -> None:
        """Compare the output of `module`, or where it is None of the linears."""
        self._linears = [one for one, _ in read]
        self._quantizer = quantizer
        self._module = module
        self.peaks = torch.stack([seen.peaks.double() for _, seen in read]).amax(dim=0)
        self._reference = None if module is None else module.answered.float()
        self._rows = [] if module is not None else [seen.rows for _, seen in read]
        pairs = zip(self._rows, self._linears, strict=False)
        self._outputs = [x @ one.weight.T for x, one in pairs]

    def error(self, channels: ChannelMap) -> float:
        """Return the squared error of what is compared, over its square."""
        answer = self._answer(channels)
        if self._module is not None and self._reference is not None:
            return self._module.error_with(answer, self._reference)
        whole = sum(map(sum_of_squares, self._outputs))
        if whole == 0:
            return 0.0
        found = zip(self._linears, self._rows, self._outputs, strict=True)
        apart = (answer.product(one, x) - output for one, x, output in found)
        return sum(map(sum_of_squares, apart)) / whole

    def _answer(self, channels: ChannelMap) -> _Reassembled:
        placed = PlacedChannels.on(self.peaks.device, channels)
        weights = {
            (one.name, one.expert): self._quantizer.weight(placed.of_weights(one.weight))
            for one in self._linears
        }
        # What stands at a place is at most the sum of what its channels come to.
        peak = float(placed.of_values(self.peaks).max())
        parameters = self._quantizer.expected_parameters(peak)
        return _Reassembled(placed, weights, self._quantizer, parameters)


@dataclass(frozen=True, eq=False)
class _Reassembled:
    """Answers for quantized linears that read places, and for others as the model would."""

    channels: PlacedChannels
    weights: Mapping[Reader, Tensor]
    """What the codes of the matrices by which the places are multiplied stand for, [N, K]."""
    quantizer: Quantizer
    parameters: QuantParameters | None
    """Of a scale that all tokens share."""

    def __call__(self, call: LinearCall) -> Tensor:
        weight = self.weights.get((call.name, call.expert))
        return call.answer() if weight is None else call.answer(self.codes(call.x), weight)

    def product(self, one: ReadingLinear, x: Tensor) -> Tensor:
        """Return what a linear answers to the rows x [rows, K], without its bias."""
        return self.codes(x) @ self.weights[one.name, one.expert].T

    def codes(self, x: Tensor) -> Tensor:
        """Return what the codes of the places stand for, for a value [..., K]."""
        return self.quantizer.read(self.channels.of_values(x), self.parameters)
