"""Rank the parts of a model by what each does to its predictions when it alone is quantized."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.graph.folds.site import Site
from castline.compiler.plan.decisions import QuantPlan
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.units import By, Unit, units
from castline.compiler.search.variants import Prediction, Variant, predictions
from castline.errors import CheckpointError, RecipeError, UnsupportedArchitectureError
from castline.progress import Progress

Tokens: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Probe:
    """A model, the plan to quantize it by, and the text that it is judged on.

    The caches, the head and the embedding are in float here.
    """

    model: BlockModel
    plan: QuantPlan
    sites: Sequence[Site]
    """The graph's, which the plan refers to."""
    tokens: Tokens
    """[samples, length]."""
    folder: Path
    """Where hidden states are kept between blocks."""

    def predictions(
        self, variants: Sequence[Variant], progress: Progress
    ) -> tuple[Prediction, ...]:
        """Return how each variant predicts the text."""
        sites = {site.value: site for site in self.sites}
        return predictions(
            self.model, self.plan, sites, variants, self.tokens, self.folder, progress
        )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of every parameter of the blocks -> its shape."""
        return {
            name: tuple(parameter.shape)
            for index in range(len(self.model.blocks))
            for name, parameter in self.model.parameters(index).items()
        }


@dataclass(frozen=True)
class Sensitivity:
    """What one unit does to the predictions when it alone is quantized."""

    unit: Unit
    prediction: Prediction


@dataclass(frozen=True)
class SensitivityRanking:
    """The units of a model with what each does, and what all do together."""

    ranked: tuple[Sensitivity, ...]
    """The one of the largest KL divergence first."""
    perplexity_original: float
    quantized: Prediction
    """Of the model with every unit quantized."""


@dataclass(frozen=True)
class KeptUnits:
    """The units that stay in float so that a budget is kept."""

    kept: tuple[Unit, ...]
    prediction: Prediction
    """Of the model with all others quantized."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """What a recipe's `keep` lists for them."""
        return tuple(pattern for unit in self.kept for pattern in unit.patterns)


def rank_sensitivity(probe: Probe, by: By, progress: Progress) -> SensitivityRanking:
    """Return the plan's units, ranked by the KL divergence that each alone causes.

    All are run in one pass over the blocks. Raises UnsupportedArchitectureError for an
    encoder, which predicts nothing, RecipeError if nothing is quantized or samples are
    of one token, and CheckpointError if the original predicts no numbers.
    """
    if not probe.model.decodes:
        raise UnsupportedArchitectureError(
            f"{type(probe.model.model).__name__} is an encoder: it predicts no tokens, and "
            "sensitivity is measured by predictions. Make its plan with castline quantize: it has "
            "the error of every linear."
        )
    found = units(probe.plan, probe.shapes, by)
    if not found:
        raise RecipeError("The recipe quantizes none of the model's layers: nothing can be ranked.")
    if probe.tokens.shape[1] < 2:
        raise RecipeError("Samples of one token predict nothing; expected at least two tokens.")
    variants = [frozenset[str](), _linears(found), *(frozenset(unit.linears) for unit in found)]
    original, quantized, *alone = probe.predictions(variants, progress)
    if not math.isfinite(original.perplexity):
        raise CheckpointError(
            f"The original's perplexity is {original.perplexity} on this text, so nothing can be "
            "compared with it. Get the checkpoint again."
        )
    ranked = (Sensitivity(*pair) for pair in zip(found, alone, strict=True))
    return SensitivityRanking(
        tuple(sorted(ranked, key=lambda one: -_divergence(one))), original.perplexity, quantized
    )


def kept_within(
    probe: Probe, ranking: SensitivityRanking, budget: float, progress: Progress
) -> KeptUnits:
    """Return the units to keep in float for a perplexity of at most `budget` times the original's.

    Those are kept first that cause the most divergence for the bytes they save. How many is found
    by halving, as if each more brought the perplexity down; what is returned was measured.
    """
    assert budget >= 1, "the caller refuses what the float model itself does not keep"
    order = [one.unit for one in sorted(ranking.ranked, key=lambda one: -_per_byte(one))]
    limit = budget * ranking.perplexity_original
    if ranking.quantized.perplexity <= limit:
        return KeptUnits((), ranking.quantized)
    too_few, enough = 0, len(order)
    best = Prediction(0.0, ranking.perplexity_original)  # of the float model
    while enough - too_few > 1:
        count = (too_few + enough) // 2
        variant = _linears(order[count:])
        (found,) = probe.predictions([variant], progress)
        if found.perplexity <= limit:
            enough, best = count, found
        else:
            too_few = count
    return KeptUnits(tuple(order[:enough]), best)


def _linears(some: Iterable[Unit]) -> frozenset[str]:
    return frozenset(name for unit in some for name in unit.linears)


def _divergence(one: Sensitivity) -> float:
    """Return the KL divergence; one that is no number is the worst."""
    found = one.prediction.kl_divergence
    return math.inf if math.isnan(found) else found


def _per_byte(one: Sensitivity) -> float:
    return _divergence(one) / max(one.unit.bytes_saved, 1)
