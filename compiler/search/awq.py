"""AWQ: scale up the weights that multiply large activations, as far as that helps each site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from castline.compiler.recipes.scaling import Scaling
from castline.compiler.search.found_scale import LARGEST, FoundScale
from castline.compiler.search.inspection import InspectedModule
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.second_moments import Moments, SecondMoments
from castline.compiler.search.site_problem import ReadingLinear, SiteProblem
from castline.compiler.search.squares import sum_of_squares

Tensor: TypeAlias = torch.Tensor
Candidate: TypeAlias = tuple[float, Tensor]
"""An exponent, and the scale [scales] that it makes."""

_STRIDE = 4  # every fourth scale is tried first, then nearer and nearer to the best of them
_OUTPUTS = 192  # of a linear that is judged by its own output, about so many are compared
_LEAST_WEIGHT = 1e-4  # added to the weights' size before it is divided by, as AutoAWQ does


@dataclass(frozen=True, eq=False)
class Awq:
    """Searches the scale of a site, by s = mean|x|**alpha / sqrt(max s * min s).

    Source: Lin et al., AWQ, arXiv:2306.00978, equations 4 and 5, and the authors' code for what the
    paper leaves out: the mean in place of the maximum, the centring, and which module's output is
    compared. Differs: alpha reaches 1, where the code ends one step before; a channel that is zero
    in the text keeps s = 1; no scale and every fourth alpha are tried, then some nearer and nearer
    to the best; of a linear's own output, some channels are compared; all is computed in float32
    or wider.
    """

    scaling: Scaling
    quantizer: Quantizer
    moments: SecondMoments
    modules: Mapping[str, InspectedModule]
    """Those whose output may be compared, by path in the block."""

    def __call__(self, problem: SiteProblem, inspected: str | None) -> FoundScale | None:
        """Return the best scale; None where the text never reached a linear to be quantized.

        `inspected` is the path of the module whose output is compared, None for the linears.
        """
        read = tuple(one for one in problem.linears if one.quantized and self._moments_of(one))
        if not read:
            return None
        module = None if inspected is None else self.modules.get(inspected)
        none = torch.ones(problem.site.scales, dtype=torch.float64, device=read[0].weight.device)
        trial = _Trial(read, self.quantizer, module)
        before = trial.error(none)
        best = FoundScale(none, None, before, before, None if module is None else inspected)
        for family in self._families(problem, read, none):
            errors = _errors([scale for _, scale in family], trial)
            for place, error in errors.items():
                alpha, scale = family[place]
                best = best.or_better(scale, alpha, error)
        return best

    def _families(
        self, problem: SiteProblem, read: tuple[ReadingLinear, ...], none: Tensor
    ) -> list[list[Candidate]]:
        """Return the scales to be tried, by what they are made of, in the order of alpha."""
        alphas = [step / self.scaling.steps for step in range(1, self.scaling.steps + 1)]
        magnitude = self._mean_magnitude(problem, none)
        families = [[(alpha, centred(magnitude**alpha)) for alpha in alphas]]
        if self.scaling.weight_aware:
            weights = self._weight_size(read, none)
            aware = []
            for alpha in [0.0, *alphas]:
                scale = magnitude**alpha / (weights ** (1 - alpha) + _LEAST_WEIGHT)
                aware.append((alpha, centred(torch.where(magnitude > 0, scale, 0.0))))
            families.append(aware)
        return families

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


def _errors(scales: Sequence[Tensor], trial: _Trial) -> dict[int, float]:
    """Return the errors of some scales by their places, nearer and nearer to the least of them.

    From one exponent to the next errors change little, so those between two are seldom the least
    where both are large.
    """
    first = min(1, len(scales) - 1)
    errors = {place: trial.error(scales[place]) for place in range(first, len(scales), _STRIDE)}
    step = _STRIDE
    while step := step // 2:
        best = min(errors, key=lambda place: errors[place])
        beside = [best - step, best + step]
        if {best - 2 * step, best + 2 * step} <= errors.keys():
            beside = beside[:1] if errors[best - 2 * step] < errors[best + 2 * step] else beside[1:]
        for place in beside:
            if place in range(len(scales)) and place not in errors:
                errors[place] = trial.error(scales[place])
    return errors


class _Trial:
    """The linears of a site, to be quantized with one scale after another."""

    def __init__(
        self,
        read: tuple[ReadingLinear, ...],
        quantizer: Quantizer,
        module: InspectedModule | None,
    ) -> None:
        """Compare the output of `module`, or, if None, some channels of the linears'."""
        self._read = read if module is not None else tuple(map(_some_outputs, read))
        self._quantizer = quantizer
        self._module = module
        self._reference = None if module is None else module.answered.float()
        self._rows = () if module is not None else tuple(map(_rows, read))
        products = (x @ one.weight.T for x, one in zip(self._rows, self._read, strict=False))
        self._whole = sum(sum_of_squares(product) for product in products)

    def error(self, scale: Tensor) -> float:
        """Return the squared error of what is compared, over its square."""
        weights = {(one.name, one.expert): self._rounded(one, scale) for one in self._read}
        if self._module is not None and self._reference is not None:
            return self._module.error(weights, self._reference)
        if self._whole == 0:
            return 0.0
        error = 0.0
        for x, one in zip(self._rows, self._read, strict=True):
            error += sum_of_squares(x @ weights[one.name, one.expert].sub_(one.weight).T)
        return error / self._whole

    def _rounded(self, one: ReadingLinear, scale: Tensor) -> Tensor:
        channels = one.channels(scale)
        return self._quantizer.weight(one.weight * channels).div_(channels)


def _rows(one: ReadingLinear) -> Tensor:
    assert one.observed is not None, "only what was read is tried"
    return one.observed.rows


def _some_outputs(one: ReadingLinear) -> ReadingLinear:
    """Return the linear with every so many of its outputs, which stand for all."""
    return replace(one, weight=one.weight[:: max(1, len(one.weight) // _OUTPUTS)])
