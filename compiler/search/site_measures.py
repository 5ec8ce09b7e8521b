"""Measure what quantization costs the linears of a site whose scale is folded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

import torch

from castline.compiler.plan.decisions import PlannedLinear
from castline.compiler.quant.scheme import QuantParameters
from castline.compiler.quant.sqnr import decibels
from castline.compiler.search.chosen_codes import ChosenCodes
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.site_problem import ReadingLinear, SiteProblem

Tensor: TypeAlias = torch.Tensor
Chosen: TypeAlias = dict[tuple[str, int | None], ChosenCodes]
"""The codes of matrices, by the name of the parameter and the expert."""


def planned_linears(
    problem: SiteProblem,
    scale: Tensor,
    quantizer: Quantizer,
    ranges: Mapping[str, QuantParameters],
    kept: Mapping[str, str],
    reads_float: Mapping[str, str],
    chosen: Chosen,
) -> Iterator[PlannedLinear]:
    """Yield each linear of a site, or stack of them, with its ratios of signal to noise.

    The weights of `problem` are folded, what was observed is not: it is divided by `scale`
    [scales] here. `ranges` has the parameters of static activations by the site's value. Those in
    `kept` stay in float, those in `reads_float` as far as their activations go, with the reason.
    `chosen` has the codes of matrices whose codes were searched.
    """
    parameters = ranges.get(problem.site.value)
    for name in dict.fromkeys(linear.name for linear in problem.linears):
        parts = [linear for linear in problem.linears if linear.name == name]
        before, after = _peaks(parts, scale)
        used = quantizer
        if name in kept:
            used = Quantizer(None, None)
        elif name in reads_float and quantizer.activations is not None:
            used = replace(quantizer, activations=None)
        reads_codes = used.activations is not None
        # Dynamic ranges of a whole text are those of its peak.
        measured = parameters or used.expected_parameters(after)
        yield PlannedLinear(
            name=name,
            weights=used.weights,
            activations=used.activations,
            parameters=parameters if reads_codes else None,
            kept=None if used is quantizer else kept.get(name) or reads_float[name],
            weight_sqnr=_weight_sqnr(parts, used, chosen),
            output_sqnr=None
            if name in kept
            else _output_sqnr(parts, scale, used, measured, chosen),
            peak_before=before,
            peak_after=after,
            clipped=_clipped(parts, chosen),
            unreached=tuple(
                one.expert for one in parts if one.expert is not None and one.observed is None
            ),
        )


def _peaks(parts: list[ReadingLinear], scale: Tensor) -> tuple[float, float]:
    seen = [(one.observed.peaks, one.channels(scale)) for one in parts if one.observed is not None]
    before = max((float(peaks.max()) for peaks, _ in seen), default=0.0)
    return before, max((float((p / channels).max()) for p, channels in seen), default=0.0)


def _clipped(parts: list[ReadingLinear], chosen: Chosen) -> float | None:
    """Return the mean share of narrowed ranges of the matrices that had them searched."""
    found = (chosen.get((one.name, one.expert)) for one in parts)
    shares = [one.clipped for one in found if one is not None and one.clipped is not None]
    return sum(shares) / len(shares) if shares else None


def _quantized(one: ReadingLinear, quantizer: Quantizer, chosen: Chosen) -> Tensor:
    codes = chosen.get((one.name, one.expert))
    return quantizer.weight(one.weight) if codes is None else codes.weight


def _weight_sqnr(parts: list[ReadingLinear], quantizer: Quantizer, chosen: Chosen) -> float | None:
    if quantizer.weights is None:
        return None
    signal = noise = 0.0
    for one in parts:
        signal += _squares(one.weight)
        noise += _squares(one.weight - _quantized(one, quantizer, chosen))
    return decibels(signal, noise)


def _output_sqnr(
    parts: list[ReadingLinear],
    scale: Tensor,
    quantizer: Quantizer,
    parameters: QuantParameters | None,
    chosen: Chosen,
) -> float | None:
    signal = noise = 0.0
    for one in parts:
        if one.observed is None:
            continue
        x = one.observed.rows / one.channels(scale)
        reference = x @ one.weight.T
        found = quantizer.read(x, parameters) @ _quantized(one, quantizer, chosen).T
        signal += _squares(reference)
        noise += _squares(reference - found)
    return decibels(signal, noise) if signal > 0 else None


def _squares(values: Tensor) -> float:
    return float(values.square().sum(dtype=torch.float64))
