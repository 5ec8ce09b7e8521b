"""Measure what quantization costs the linears of a site whose scale is folded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

import torch

from castline.compiler.plan.decisions import PlannedLinear
from castline.compiler.quant.scheme import QuantParameters
from castline.compiler.quant.sqnr import decibels
from castline.compiler.search.made_linears import Chosen, MadeLinears
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.site_problem import ReadingLinear, SiteProblem
from castline.compiler.search.squares import sum_of_squares

Tensor: TypeAlias = torch.Tensor

_ROWS = 128  # of what a linear read, those that the noise of its output is measured on


def planned_linears(
    problem: SiteProblem,
    scale: Tensor,
    quantizer: Quantizer,
    ranges: Mapping[str, QuantParameters],
    kept: Mapping[str, str],
    reads_float: Mapping[str, str],
    made: MadeLinears,
) -> Iterator[PlannedLinear]:
    """Yield each linear of a site, or stack of them, with its ratios of signal to noise.

    The weights of `problem` are folded, what was observed is not: it is divided by `scale`
    [scales] here. `ranges` has the parameters of static activations by the site's value. Those in
    `kept` stay in float, those in `reads_float` as far as their activations go, with the reason.
    `made` says what they read and multiply by, and has the codes of those that were searched.
    """
    parameters = ranges.get(problem.site.value)
    for name in dict.fromkeys(linear.name for linear in problem.linears):
        parts = [linear for linear in problem.linears if linear.name == name]
        before, after = _peaks(parts, scale, made)
        used = quantizer
        if name in kept:
            used = Quantizer(None, None)
        elif name in reads_float and quantizer.activations is not None:
            used = replace(quantizer, activations=None)
        reads_codes = used.activations is not None
        # Dynamic ranges of a whole text are those of its peak.
        measured = parameters or used.expected_parameters(after)
        by_weights = None if used.weights is None else _weight_sqnr(parts, used, made)
        by_outputs = None if name in kept else _output_sqnr(parts, scale, used, measured, made)
        yield PlannedLinear(
            name=name,
            weights=used.weights,
            activations=used.activations,
            parameters=parameters if reads_codes else None,
            kept=None if used is quantizer else kept.get(name) or reads_float[name],
            weight_sqnr=by_weights,
            output_sqnr=by_outputs,
            peak_before=before,
            peak_after=after,
            clipped=_clipped(parts, made.chosen),
            unreached=tuple(
                one.expert for one in parts if one.expert is not None and one.observed is None
            ),
        )


def _peaks(parts: list[ReadingLinear], scale: Tensor, made: MadeLinears) -> tuple[float, float]:
    seen = [
        (one.observed.peaks, made.read(one, one.observed.peaks / one.channels(scale)))
        for one in parts
        if one.observed is not None
    ]
    before = max((float(peaks.max()) for peaks, _ in seen), default=0.0)
    return before, max((float(after.max()) for _, after in seen), default=0.0)


def _clipped(parts: list[ReadingLinear], chosen: Chosen) -> float | None:
    """Return the mean share of narrowed ranges of the matrices that had them searched."""
    found = (chosen.get((one.name, one.expert)) for one in parts)
    shares = [one.clipped for one in found if one is not None and one.clipped is not None]
    return sum(shares) / len(shares) if shares else None


def _quantized(one: ReadingLinear, quantizer: Quantizer, made: MadeLinears) -> Tensor:
    codes = made.chosen.get((one.name, one.expert))
    return quantizer.weight(one.weight) if codes is None else codes.weight


def _weight_sqnr(parts: list[ReadingLinear], quantizer: Quantizer, made: MadeLinears) -> float:
    signal = noise = 0.0
    for one in parts:
        weight = made.weight(one)
        signal += sum_of_squares(weight)
        noise += sum_of_squares(weight - _quantized(one, quantizer, made))
    return decibels(signal, noise)


def _output_sqnr(
    parts: list[ReadingLinear],
    scale: Tensor,
    quantizer: Quantizer,
    parameters: QuantParameters | None,
    made: MadeLinears,
) -> float | None:
    signal = noise = 0.0
    for one in parts:
        if one.observed is None:
            continue
        rows = one.observed.rows
        x = rows[:: max(1, len(rows) // _ROWS)] / one.channels(scale)
        apart = x @ one.weight.T
        signal += sum_of_squares(apart)
        apart -= quantizer.read(made.read(one, x), parameters) @ _quantized(one, quantizer, made).T
        noise += sum_of_squares(apart)
    return decibels(signal, noise) if signal > 0 else None
