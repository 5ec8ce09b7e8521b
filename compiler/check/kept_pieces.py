"""Find the fewest pieces of a model to keep in float so that its gate passes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from castline.compiler.check.gate import Verdict
from castline.compiler.check.language import LanguageFigures
from castline.errors import RecipeError

Kept: TypeAlias = frozenset[int]


@dataclass(frozen=True)
class Tried:
    """How a mix does that keeps some pieces in float."""

    kept: Kept
    language: LanguageFigures
    logits_cosine: float
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)


@dataclass(frozen=True)
class KeptPieces:
    """A set of pieces that is enough, and of which none can be left out."""

    quantized: Tried
    """Of the model with nothing kept."""
    chosen: Tried
    alone: tuple[tuple[int, float], ...]
    """Every piece with the KL divergence that it causes when it alone is quantized, worst first."""
    without: tuple[Tried, ...]
    """The set with each of its pieces left out in turn: none of them passes."""
    mixes: int
    """How many were run."""


def kept_pieces(units: Sequence[int], measure: Callable[[Kept], Tried]) -> KeptPieces:
    """Return a set of `units` which passes in float, while it does not with any one left out.

    Units are ranked by the KL divergence that each alone causes. How many of the worst are enough
    is found by halving, as if each more brought the mix nearer to the original; then one after
    another, the least harmful first, is left out if the gate passes without it. All of the outcome
    was measured. Raises RecipeError where even all units in float do not pass.
    """
    tried: dict[Kept, Tried] = {}

    def of(kept: Kept) -> Tried:
        if kept not in tried:
            tried[kept] = measure(kept)
        return tried[kept]

    everything, nothing = frozenset(units), of(frozenset())
    if nothing.passed:
        return KeptPieces(nothing, nothing, (), (), len(tried))
    _require_passing(of(everything))
    alone = {unit: _divergence(of(everything - {unit})) for unit in units}
    ranked = sorted(units, key=lambda unit: -alone[unit])
    chosen = _pruned(of, ranked, _enough(of, ranked))
    return KeptPieces(
        nothing,
        chosen,
        tuple((unit, alone[unit]) for unit in ranked),
        tuple(of(chosen.kept - {unit}) for unit in ranked if unit in chosen.kept),
        len(tried),
    )


def _require_passing(everything: Tried) -> None:
    failed = [str(verdict) for verdict in everything.verdicts if not verdict.passed]
    if failed:
        raise RecipeError(
            f"No layers to keep make the gate pass, since all of them do not: {'; '.join(failed)}. "
            "Set wider thresholds, or keep what is no layer: the embedding, the head or the cache."
        )


def _enough(of: Callable[[Kept], Tried], ranked: Sequence[int]) -> Tried:
    too_few, enough = 0, len(ranked)
    while enough - too_few > 1:
        count = (too_few + enough) // 2
        if of(frozenset(ranked[:count])).passed:
            enough = count
        else:
            too_few = count
    return of(frozenset(ranked[:enough]))


def _pruned(of: Callable[[Kept], Tried], ranked: Sequence[int], chosen: Tried) -> Tried:
    """Leave out what need not be kept, in turn, until nothing in a whole round can be."""
    waiting = deque(unit for unit in reversed(ranked) if unit in chosen.kept)
    refused = 0
    while refused < len(waiting):
        unit = waiting.popleft()
        smaller = of(chosen.kept - {unit})
        if smaller.passed:
            chosen, refused = smaller, 0
        else:
            waiting.append(unit)
            refused += 1
    return chosen


def _divergence(one: Tried) -> float:
    """Return the KL divergence; one that is no number is the worst."""
    found = one.language.kl_divergence
    return math.inf if math.isnan(found) else found
