"""SmoothQuant: move activation outliers into the weights, as far as that helps each site."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import torch

from castline.compiler.recipes.smoothing import SiteKind, Smoothing
from castline.compiler.search.found_scale import FoundScale
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.site_problem import ReadingLinear, SiteProblem
from castline.compiler.search.smoothing_scale import smoothing_scale
from castline.compiler.search.squares import sum_of_squares

Tensor: TypeAlias = torch.Tensor

ALPHAS = tuple(step / 10 for step in range(11))
"""The strengths that a search tries, beside no smoothing at all."""

FINER = 0.05
"""Then it tries so much more and less of the best."""


def site_kind(kind: str) -> SiteKind | None:
    """Return what the recipe calls a site of the fold planner's `kind`; None for no name."""
    source, *ways = kind.split(" through ")
    if source.startswith("norm gain"):
        return None if ways else "norm"
    names: dict[str, SiteKind] = {"attention": "value", "a gate": "up", "ReLU": "relu"}
    return names.get(ways[0]) if len(ways) == 1 else None


def smooth(problem: SiteProblem, smoothing: Smoothing, quantizer: Quantizer) -> FoundScale | None:
    """Return the best scale for a site; None where it has nothing to quantize or was never read.

    A fixed alpha is taken as it is. A search takes the strength whose quantized linears answer
    nearest to the float ones on the rows that were kept, and none where that is nearest.
    """
    if not any(one.quantized and one.observed is not None for one in problem.linears):
        return None
    trial = _Trial(problem, quantizer)
    before = trial.error(trial.no_scale)
    if smoothing.alpha != "search":
        scale = trial.scale(smoothing.alpha)
        return FoundScale(scale, smoothing.alpha, trial.error(scale), before)
    best = trial.better(FoundScale(trial.no_scale, None, before, before), ALPHAS)
    if best.alpha is None:
        return best
    return trial.better(best, (best.alpha - FINER, best.alpha + FINER))


class _Trial:
    """The linears of a site, to be quantized with one scale after another."""

    def __init__(self, problem: SiteProblem, quantizer: Quantizer) -> None:
        self._quantizer = quantizer
        self._linears: list[ReadingLinear] = []
        self._rows: list[Tensor] = []
        for one in problem.linears:
            if one.quantized and one.observed is not None:
                self._linears.append(one)
                self._rows.append(one.observed.rows)
        pairs = zip(self._linears, self._rows, strict=True)
        self._references = [rows @ one.weight.T for one, rows in pairs]
        self._whole = sum(sum_of_squares(reference) for reference in self._references)
        self._activation_peaks = problem.activation_peaks
        self._weight_peaks = problem.weight_peaks
        self.no_scale = torch.ones_like(self._activation_peaks, dtype=torch.float64)

    def scale(self, alpha: float) -> Tensor:
        """Return the scale of a strength, [scales]."""
        return smoothing_scale(self._activation_peaks, self._weight_peaks, alpha)

    def better(self, best: FoundScale, alphas: Iterable[float]) -> FoundScale:
        """Return `best`, or what a strength of `alphas` makes if its error is smaller."""
        for alpha in alphas:
            if 0 <= alpha <= 1:
                scale = self.scale(alpha)
                best = best.or_better(scale, alpha, self.error(scale))
        return best

    def error(self, scale: Tensor) -> float:
        """Return the squared error of all quantized outputs over their square."""
        factors = [one.channels(scale) for one in self._linears]
        parameters = self._quantizer.expected_parameters(_peak(self._linears, factors))
        error = 0.0
        for one, rows, reference, factor in zip(
            self._linears, self._rows, self._references, factors, strict=True
        ):
            weight = self._quantizer.weight(one.weight * factor)
            found = self._quantizer.read(rows / factor, parameters) @ weight.T
            error += sum_of_squares(reference - found)
        return error / self._whole if self._whole > 0 else 0.0


def _peak(linears: Iterable[ReadingLinear], factors: Iterable[Tensor]) -> float:
    peaks = [
        float((one.observed.peaks / factor).max())
        for one, factor in zip(linears, factors, strict=True)
        if one.observed is not None
    ]
    return max(peaks, default=0.0)
