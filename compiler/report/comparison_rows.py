"""Put how a result compares with its original into the rows of a table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from castline.compiler.report.figures import EncodingFigures, LanguageFigures, Speed, Verdict
from castline.compiler.report.numbers import percentage, significant, size
from castline.compiler.report.outcome import CompileOutcome

_FLOAT32_BITS = 32


@dataclass(frozen=True)
class FigureRow:
    """One figure of both models; "" where there is none."""

    name: str
    original: str
    result: str
    change: str
    at_a_glance: bool = False
    """Whether it is one of the few that everybody asks for."""


@dataclass(frozen=True)
class VerdictRow:
    """One figure against its limit."""

    name: str
    value: str
    limit: str
    passed: bool
    used: float | None
    """Share of what the limit leaves to lose that is lost, 0 to 1; None where that is unknown."""


def figure_rows(outcome: CompileOutcome) -> tuple[FigureRow, ...]:
    """Return a row for each figure that was measured."""
    rows = [] if outcome.language is None else list(_language(outcome.language))
    rows += [] if outcome.encoding is None else list(_encoding(outcome.encoding))
    rows += _sizes(outcome)
    if outcome.speed is not None and outcome.original_speed is not None:
        rows += _speeds(outcome.original_speed, outcome.speed)
    return tuple(rows)


def verdict_row(verdict: Verdict) -> VerdictRow:
    """Return the row of a figure and its limit."""
    return VerdictRow(
        name=_title(verdict.name),
        value="not measured" if verdict.value is None else significant(verdict.value, 4),
        limit=f"{'≤' if verdict.at_most else '≥'} {verdict.limit:.6g}",
        passed=verdict.passed,
        used=_used(verdict),
    )


def _title(name: str) -> str:
    words = name.replace("kl ", "KL ").replace("top1", "top-1")
    return words[:1].upper() + words[1:]


def _used(verdict: Verdict) -> float | None:
    """Where from the figure of an equal model to the limit the value lies."""
    equal = 0 if verdict.at_most and not verdict.name.endswith("ratio") else 1
    room = verdict.limit - equal
    value = verdict.value
    if value is None or math.isnan(value) or room == 0 or (room > 0) != verdict.at_most:
        return None
    return min(max((value - equal) / room, 0.0), 1.0)


def _language(figures: LanguageFigures) -> Iterator[FigureRow]:
    original, result = figures.perplexity_original, figures.perplexity
    yield FigureRow(
        "Perplexity",
        significant(original),
        significant(result),
        f"{100 * (result / original - 1):+.1f} %" if original else "",
        at_a_glance=True,
    )
    divergence = significant(figures.kl_divergence)
    yield FigureRow("KL divergence, nats a token", "0", divergence, "")
    agreement = percentage(figures.top1_agreement)
    yield FigureRow("Same likeliest token", "", agreement, "", at_a_glance=True)


def _encoding(figures: EncodingFigures) -> Iterator[FigureRow]:
    cosines = {
        "Cosine of text vectors": figures.embedding_cosine,
        "Cosine of text vectors, the worst": figures.worst_embedding_cosine,
        "Cosine of token vectors": figures.hidden_cosine,
        "Cosine of token vectors, the worst": figures.worst_hidden_cosine,
        "Rank correlation of similarities": figures.similarity_correlation,
    }
    for number, (name, cosine) in enumerate(cosines.items()):
        glance = number in (0, len(cosines) - 1)
        yield FigureRow(name, "1", significant(cosine, 4), "", at_a_glance=glance)
    yield FigureRow("Relative error of the vectors", "0", significant(figures.relative_error), "")


def _sizes(outcome: CompileOutcome) -> Iterator[FigureRow]:
    times = _times(outcome.original_bytes, outcome.bytes)
    smaller = f"{times} smaller" if times else ""
    original = size(outcome.original_bytes)
    yield FigureRow("Size", original, size(outcome.bytes), smaller, at_a_glance=True)
    bits = significant(outcome.bits_per_weight)
    yield FigureRow("Bits per weight", str(_FLOAT32_BITS), bits, "")


def _speeds(original: Speed, result: Speed) -> Iterator[FigureRow]:
    decode = result.decode is not None and original.decode is not None
    yield _speed("Reading, tokens/s", original.prefill, result.prefill, at_a_glance=not decode)
    if original.decode is not None and result.decode is not None:
        yield _speed("Writing, tokens/s", original.decode, result.decode, at_a_glance=True)


def _speed(name: str, original: float, result: float, *, at_a_glance: bool) -> FigureRow:
    times = _times(result, original)
    change = f"{times} as fast" if times else ""
    return FigureRow(name, significant(original), significant(result), change, at_a_glance)


def _times(more: float, less: float) -> str:
    return f"{significant(more / less)}×" if less else ""
