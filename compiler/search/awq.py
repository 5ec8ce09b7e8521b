"""AWQ: scale up the weights that multiply large activations, as far as that helps each site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from castline.compiler.recipes.scaling import Scaling
from castline.compiler.search.found_scale import LARGEST, FoundScale
from castline.compiler.search.inspection import InspectedModule
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.second_moments import Moments, SecondMoments
from castline.compiler.search.site_problem import ReadingLinear, SiteProblem

Tensor: TypeAlias = torch.Tensor

_FINALISTS = 4  # scales that a glimpse leaves to be tried on all rows
_STRIDE, _REFINED = 3, 2  # every third scale is glimpsed first, then those beside the best two
_GLIMPSED_ROWS = 128
_LEAST_WEIGHT = 1e-4  # added to the weights' size before it is divided by, as AutoAWQ does


@dataclass(frozen=True, eq=False)
class Awq:
    """Searches the scale of a site, by s = mean|x|**alpha / sqrt(max s * min s).

    Source: Lin et al., AWQ, arXiv:2306.00978, equations 4 and 5, and the authors' code for what the
    paper leaves out: the mean in place of the maximum, the centring, and which module's output is
    compared. Differs: alpha reaches 1, where the code ends one step before; a channel that is zero
    in the text keeps s = 1; every third alpha, and those beside the best two of them, are tried on
    some 128 rows, and the best of all, and no scale, on some 512; all is computed in float32 or
    wider.
    """

    scaling: Scaling
    quantizer: Quantizer
    moments: SecondMoments
    modules: Mapping[str, InspectedModule]
    """Those whose output may be compared, by path in the block."""
    glimpses: Mapping[str, InspectedModule] = field(default_factory=dict)
    """The same as they run on fewer tokens."""

    def __call__(self, problem: SiteProblem, inspected: str | None) -> FoundScale | None:
        """Return the best scale; None where the text never reached a linear to be quantized.

        `inspected` is the path of the module whose output is compared, None for the linears.
        """
        read = tuple(one for one in problem.linears if one.quantized and self._moments_of(one))
        if not read:
            return None
        module = None if inspected is None else self.modules.get(inspected)
        none = torch.ones(problem.site.scales, dtype=torch.float64, device=read[0].weight.device)
        candidates = list(self._candidates(problem, read, none))
        if len(candidates) > _FINALISTS:
            glimpse = None if module is None else self.glimpses.get(module.path, module)
            trial = _Trial(read, self.quantizer, glimpse, _GLIMPSED_ROWS)
            likely = _likeliest([scale for _, scale in candidates], trial)
            candidates = [candidates[place] for place in likely]
        trial = _Trial(read, self.quantizer, module)
        before = trial.error(none)
        best = FoundScale(none, None, before, before, None if module is None else inspected)
        for alpha, scale in candidates:
            best = best.or_better(scale, alpha, trial.error(scale))
        return best

    def _candidates(
        self, problem: SiteProblem, read: tuple[ReadingLinear, ...], none: Tensor
    ) -> Iterator[tuple[float, Tensor]]:
        alphas = [step / self.scaling.steps for step in range(1, self.scaling.steps + 1)]
        magnitude = self._mean_magnitude(problem, none)
        for alpha in alphas:
            yield alpha, centred(magnitude**alpha)
        if not self.scaling.weight_aware:
            return
        weights = self._weight_size(read, none)
        for alpha in [0.0, *alphas]:
            scale = magnitude**alpha / (weights ** (1 - alpha) + _LEAST_WEIGHT)
            yield alpha, centred(torch.where(magnitude > 0, scale, 0.0))

    def _mean_magnitude(self, problem: SiteProblem, none: Tensor) -> Tensor:
        """Return the mean of |x| over the text for each entry of the scale, float64 [scales]."""
        total, rows = torch.zeros_like(none), torch.zeros_like(none)
        seen = set()
        for one in problem.linears:
            reader = (self.moments.first_of[one.name], one.expert)
            moments = self._moments_of(one)
            if moments is None or reader in seen:
                continue
            seen.add(reader)
            taking = one.entries >= 0
            total.index_add_(0, one.entries[taking], moments.magnitude[taking])
            count = torch.full_like(moments.magnitude[taking], moments.rows)
            rows.index_add_(0, one.entries[taking], count)
        return total / rows.clamp(min=1)

    def _weight_size(self, read: tuple[ReadingLinear, ...], none: Tensor) -> Tensor:
        """Return the mean of |w| over its group's largest for each entry, float64 [scales]."""
        total, count = torch.zeros_like(none), torch.zeros_like(none)
        scheme = self.quantizer.weights
        for one in read:
            n, k = one.weight.shape
            group = scheme.group_for(k) if scheme is not None else k
            size = one.weight.abs().reshape(n, -1, group if isinstance(group, int) else k)
            relative = size / size.amax(dim=-1, keepdim=True).clamp(min=1e-12)
            taking = one.entries >= 0
            means = relative.reshape(n, k).mean(dim=0).double()[taking]
            total.index_add_(0, one.entries[taking], means)
            count.index_add_(0, one.entries[taking], torch.ones_like(means))
        return total / count.clamp(min=1)

    def _moments_of(self, one: ReadingLinear) -> Moments | None:
        return self.moments.of(one.name, one.expert)


def centred(scale: Tensor) -> Tensor:
    """Return a scale [scales] around 1: over sqrt(max * min) of what is above zero; of zeros, 1."""
    alive = scale > 0
    if not alive.any():
        return torch.ones_like(scale)
    middle = (scale[alive].max().log() + scale[alive].min().log()).div(2).exp()
    around = (scale / middle).clamp(1 / LARGEST, LARGEST)
    return torch.where(alive, around, 1.0)


def _likeliest(scales: list[Tensor], trial: _Trial) -> list[int]:
    """Return the places of the best scales by what a trial says of some, in order.

    From one exponent to the next errors change little, so those between two are seldom the least
    where both are large.
    """
    errors = {place: trial.error(scales[place]) for place in range(1, len(scales), _STRIDE)}
    for best in _least(errors, _REFINED):
        beside = range(max(0, best - _STRIDE + 1), min(len(scales), best + _STRIDE))
        errors |= {place: trial.error(scales[place]) for place in beside if place not in errors}
    return sorted(_least(errors, _FINALISTS))


def _least(errors: Mapping[int, float], count: int) -> list[int]:
    return sorted(errors, key=lambda place: errors[place])[:count]


class _Trial:
    """The linears of a site, to be quantized with one scale after another."""

    def __init__(
        self,
        read: tuple[ReadingLinear, ...],
        quantizer: Quantizer,
        module: InspectedModule | None,
        rows: int | None = None,
    ) -> None:
        """Compare the output of `module`, or of the linears for up to so many rows, None: all."""
        self._read = read
        self._quantizer = quantizer
        self._module = module
        self._reference = None if module is None else module.answered.float()
        self._rows = () if module is not None else tuple(_rows(one, rows) for one in read)
        products = (x @ one.weight.T for x, one in zip(self._rows, read, strict=False))
        self._whole = sum(_squares(product) for product in products)

    def error(self, scale: Tensor) -> float:
        """Return the squared error of what is compared, over its square."""
        weights = {(one.name, one.expert): self._rounded(one, scale) for one in self._read}
        if self._module is not None and self._reference is not None:
            return self._module.error(weights, self._reference)
        if self._whole == 0:
            return 0.0
        error = 0.0
        for x, one in zip(self._rows, self._read, strict=True):
            error += _squares(x @ weights[one.name, one.expert].sub_(one.weight).T)
        return error / self._whole

    def _rounded(self, one: ReadingLinear, scale: Tensor) -> Tensor:
        channels = one.channels(scale)
        return self._quantizer.weight(one.weight * channels).div_(channels)


def _rows(one: ReadingLinear, most: int | None) -> Tensor:
    assert one.observed is not None, "only what was read is tried"
    rows = one.observed.rows
    return rows if most is None else rows[:: -(-len(rows) // most)]


def _squares(values: Tensor) -> float:
    return float(values.square().sum(dtype=torch.float64))
