"""Say what castline sensitivity found: which units do harm, and which of them a budget keeps."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.sensitivity import KeptUnits, SensitivityRanking
from castline.compiler.search.units import By


@dataclass(frozen=True)
class RankedUnit:
    """What one unit does when it alone is quantized."""

    name: str
    linears: tuple[str, ...]
    kl_divergence: float
    """Nats a token."""
    perplexity: float
    bytes_saved: int
    """Against float16."""
    kept: bool
    """Whether it stays in float, so that the budget is kept."""


@dataclass(frozen=True)
class RankingOutcome:
    """A ranking, and the recipe that keeps its budget."""

    source: str
    recipe: Recipe
    """The one that was asked about; with a budget, with all in `keep` that it takes."""
    by: By
    text: str
    """Source of the samples, as the user named it, or "shipped"."""
    tokens: int
    """How many predictions the figures are of."""
    units: tuple[RankedUnit, ...]
    """The one of the largest KL divergence first."""
    perplexity_original: float
    perplexity_quantized: float
    """With every unit quantized."""
    kl_divergence_quantized: float
    budget: float | None
    """How many times the original's the perplexity may be."""
    perplexity: float | None
    """With the units that are not kept quantized; None without a budget."""
    kl_divergence: float | None
    seconds: float

    @property
    def kept(self) -> tuple[RankedUnit, ...]:
        return tuple(unit for unit in self.units if unit.kept)

    def to_json(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return asdict(self) | {"recipe": self.recipe.model_dump(mode="json")}


def ranked_units(ranking: SensitivityRanking, kept: KeptUnits | None) -> tuple[RankedUnit, ...]:
    """Return the units of a ranking, those that a budget keeps marked."""
    names = {unit.name for unit in kept.kept} if kept is not None else set()
    return tuple(
        RankedUnit(
            one.unit.name,
            one.unit.linears,
            one.prediction.kl_divergence,
            one.prediction.perplexity,
            one.unit.bytes_saved,
            one.unit.name in names,
        )
        for one in ranking.ranked
    )
