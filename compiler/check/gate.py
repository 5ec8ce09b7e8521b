"""Judge a result by its recipe's thresholds, and refuse it if one is not kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from castline.compiler.recipes.thresholds import Thresholds
from castline.errors import GateFailedError

_AT_MOST = ("perplexity_ratio", "kl_divergence")
"""The figures that may not be larger than their limit; the others may not be smaller."""


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


def judge(thresholds: Thresholds, figures: Mapping[str, float | None]) -> tuple[Verdict, ...]:
    """Return a verdict for each threshold that is set, of those that `figures` has by name.

    The others are for models of another kind. A figure that is None was not measured; a threshold
    on it fails.
    """
    return tuple(
        Verdict(name.replace("_", " "), value, limit, at_most=name in _AT_MOST)
        for name, value in figures.items()
        if (limit := getattr(thresholds, name)) is not None
    )


def nothing_judged(
    verdicts: Sequence[Verdict], figures: Mapping[str, float | None]
) -> tuple[str, ...]:
    """Return a note if no figure has a threshold, as in a recipe for models of another kind."""
    if verdicts:
        return ()
    return (f"the gate judged nothing: the recipe has no threshold on {', '.join(figures)}",)


def require(verdicts: Sequence[Verdict]) -> None:
    """Raise GateFailedError with every verdict that did not pass, its limit and by how much."""
    failed = [str(verdict) for verdict in verdicts if not verdict.passed]
    if failed:
        raise GateFailedError(
            "The result is too far from the original, and nothing was published:\n"
            + "\n".join(f"  {line}" for line in failed)
            + "\nUse a recipe with more bits or smaller groups, or set wider thresholds in it."
        )
