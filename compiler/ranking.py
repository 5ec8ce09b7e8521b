"""Rank the layers of a checkpoint by what quantizing them does, and keep the worst in float."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.planning import hashed, make_plan, read_samples, require_device
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.report.ranking_outcome import RankingOutcome, ranked_units
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.sensitivity import Probe, kept_within, rank_sensitivity
from castline.compiler.search.units import By
from castline.errors import RecipeError
from castline.exporters.checkpoint import open_checkpoint
from castline.exporters.export import export
from castline.progress import Progress, SilentProgress

SAMPLES = 4
"""Of the calibration samples, how many a ranking reads: every unit is run on all of them."""


@dataclass(frozen=True)
class Question:
    """What a ranking is asked for."""

    by: By = "layer"
    budget: float | None = None
    """How many times the original's the perplexity may be, at least 1; None: only rank."""
    samples: int = SAMPLES

    def __post_init__(self) -> None:
        if self.budget is not None and not self.budget >= 1:
            raise RecipeError(
                f"budget is {self.budget:g}: expected at least 1, such as 1.02 for a perplexity "
                "at most 2 % above the original's."
            )


def rank_model(
    source: str,
    *,
    recipe: Recipe,
    question: Question = Question(),
    plan: Path | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> RankingOutcome:
    """Plan the quantization of a checkpoint by a recipe, and rank its units by the harm they do.

    `plan` is the folder of its plan, which is made or gone on with there (None: made, and thrown
    away). With a budget, the recipe of the outcome keeps the units in float that it takes. Raises
    RecipeError for a recipe that quantizes no layer, and the other CastlineErrors.
    """
    started = time.perf_counter()
    progress = progress or SilentProgress()
    require_device(device)
    with progress.stage(f"Opening {source}"):
        checkpoint = open_checkpoint(source, trust_remote_code=trust_remote_code)
    exported = export(checkpoint, progress=progress)
    samples = read_samples(checkpoint, recipe, progress)
    with TemporaryDirectory(prefix="castline-") as scratch:
        quantization = make_plan(
            checkpoint,
            exported,
            plan or Path(scratch) / "plan",
            recipe=recipe,
            sha256=hashed(checkpoint, progress),
            device=device,
            overwrite=False,
            progress=progress,
        )
        tokens = samples.tokens[: question.samples]
        probe = Probe(
            BlockModel(checkpoint, device),
            quantization,
            fold_sites(exported.model).sites,
            tokens,
            Path(scratch),
        )
        ranking = rank_sensitivity(probe, question.by, progress)
        kept = None
        if question.budget is not None:
            kept = kept_within(probe, ranking, question.budget, progress)
    return RankingOutcome(
        source=source,
        recipe=recipe if kept is None else _keeping(recipe, kept.patterns),
        by=question.by,
        text=samples.source,
        tokens=len(tokens) * (tokens.shape[1] - 1),
        units=ranked_units(ranking, kept),
        perplexity_original=ranking.perplexity_original,
        perplexity_quantized=ranking.quantized.perplexity,
        kl_divergence_quantized=ranking.quantized.kl_divergence,
        budget=question.budget,
        perplexity=None if kept is None else kept.prediction.perplexity,
        kl_divergence=None if kept is None else kept.prediction.kl_divergence,
        seconds=time.perf_counter() - started,
    )


def _keeping(recipe: Recipe, patterns: tuple[str, ...]) -> Recipe:
    """Return the recipe with more in `keep`, and a name of its own if there is more."""
    if not patterns:
        return recipe
    kept = {"name": f"{recipe.name}-mixed", "keep": (*recipe.keep, *patterns)}
    return recipe.model_copy(update=kept)
