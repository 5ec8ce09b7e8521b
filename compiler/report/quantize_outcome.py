"""Say what a search for a plan came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from castline.compiler.plan.decisions import PlannedLinear, QuantPlan


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizeOutcome:
    """What `castline quantize` wrote."""

    output: Path
    source: str
    recipe: str
    plan: QuantPlan
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def quantized(self) -> tuple[PlannedLinear, ...]:
        """The linears of which anything is quantized."""
        linears = self.plan.linears.values()
        return tuple(one for one in linears if one.weights or one.activations)

    @property
    def kept(self) -> dict[str, int]:
        """Why linears stay in float, wholly or in part -> how many."""
        return dict(Counter(one.kept for one in self.plan.linears.values() if one.kept))

    @property
    def algorithm(self) -> str:
        """What chose the numbers, as the recipe calls it."""
        return str(self.plan.recipe.get("algorithm", ""))

    @property
    def folded(self) -> int:
        """Number of sites with a scale that the model takes up."""
        return sum(site.scale is not None and not site.explicit for site in self.plan.sites)

    @property
    def divided(self) -> int:
        """Number of sites whose value the graph divides by a scale in a node of its own."""
        return sum(site.explicit for site in self.plan.sites)

    @property
    def clipped(self) -> float | None:
        """Mean share of narrowed ranges over the linears whose ranges were searched; None: none."""
        shares = [one.clipped for one in self.plan.linears.values() if one.clipped is not None]
        return sum(shares) / len(shares) if shares else None

    @property
    def reassembled(self) -> int:
        """Number of sites whose channels are taken apart and merged."""
        return sum(site.reassembly is not None for site in self.plan.sites)

    @property
    def corrected(self) -> tuple[int, int] | None:
        """How many windows of blocks took up what they learned, of how many; None: none learned."""
        windows = self.plan.corrections
        return (sum(one.merged for one in windows), len(windows)) if windows else None

    @property
    def unreached(self) -> dict[str, tuple[int, ...]]:
        """Name of a stack -> its experts that no token of the calibration text reached."""
        linears = self.plan.linears.values()
        return {one.name: one.unreached for one in linears if one.unreached}

    def worst(self, count: int) -> tuple[PlannedLinear, ...]:
        """Return the linears whose outputs lose most, the worst first."""
        measured = [one for one in self.quantized if one.output_sqnr is not None]
        return tuple(sorted(measured, key=lambda one: one.output_sqnr or 0.0)[:count])

    def to_json(self) -> dict[str, object]:
        """The fields by name; of the plan, what a machine asks first."""
        identity = self.plan.identity
        return {
            "output": str(self.output),
            "source": self.source,
            "recipe": self.recipe,
            "algorithm": self.algorithm,
            "checkpoint_sha256": identity.checkpoint_sha256,
            "calibration": vars(identity.calibration),
            "blocks": len(self.plan.blocks),
            "linears": len(self.plan.linears),
            "quantized": len(self.quantized),
            "kept": self.kept,
            "sites": len(self.plan.sites),
            "folded": self.folded,
            "divided": self.divided,
            "clipped": self.clipped,
            "reassembled": self.reassembled,
            "corrected": None if self.corrected is None else list(self.corrected),
            "unreached": {name: list(experts) for name, experts in self.unreached.items()},
            "seconds": self.seconds,
            "notes": list(self.notes),
        }
