"""Judge a result by its recipe's thresholds, and refuse it if one is not kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from castline.compiler.check.language import LanguageFigures
from castline.compiler.check.tensors import TensorFigures
from castline.compiler.recipes.thresholds import Thresholds
from castline.errors import GateFailedError
from castline.exporters.names import LOGITS


@dataclass(frozen=True)
class Verdict:
    """One figure held against its limit; `at_most` says on which side of it the figure must be.

    A figure that is nan, or that was not measured (`value` is None), does not pass.
    """

    name: str
    value: float | None
    limit: float
    at_most: bool

    @property
    def passed(self) -> bool:
        if self.value is None or math.isnan(self.value):
            return False
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        limit = f"{'at most' if self.at_most else 'at least'} {self.limit:.6g}"
        if self.value is None:
            return f"{self.name} was not measured, must be {limit}"
        if self.passed:
            return f"{self.name} is {self.value:.6g}, {limit}"
        if not math.isfinite(self.value):
            return f"{self.name} is {self.value}, must be {limit}"
        side = "above" if self.at_most else "below"
        apart = abs(self.value - self.limit)
        return f"{self.name} is {self.value:.6g}, must be {limit}: {apart:.3g} {side} it"


def judge(
    thresholds: Thresholds, language: LanguageFigures | None, tensors: TensorFigures | None
) -> tuple[Verdict, ...]:
    """Return a verdict for each threshold that is set; without one there is no verdict.

    `language` or `tensors` is None where it was not measured; a threshold on it then fails.
    """
    figures = (
        ("perplexity_ratio", None if language is None else language.perplexity_ratio, True),
        ("kl_divergence", None if language is None else language.kl_divergence, True),
        ("top1_agreement", None if language is None else language.top1_agreement, False),
        ("logits_cosine", None if tensors is None else tensors.of(LOGITS).cosine, False),
    )
    return tuple(
        Verdict(name.replace("_", " "), value, limit, at_most)
        for name, value, at_most in figures
        if (limit := getattr(thresholds, name)) is not None
    )


def require(verdicts: Sequence[Verdict]) -> None:
    """Raise GateFailedError with every verdict that did not pass, its limit and by how much."""
    failed = [str(verdict) for verdict in verdicts if not verdict.passed]
    if failed:
        raise GateFailedError(
            "The result is too far from the original, and nothing was published:\n"
            + "\n".join(f"  {line}" for line in failed)
            + "\nUse a recipe with more bits or smaller groups, or set wider thresholds in it."
        )
