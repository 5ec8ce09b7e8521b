"""Say what castline check --bisect found: which pieces to keep in float, and what that gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from castline.compiler.report.figures import LanguageFigures, Verdict
from castline.compiler.report.plain import PlainValues, plain_fields


@dataclass(frozen=True, kw_only=True)
class TriedPiece(PlainValues):
    """One piece of the model."""

    name: str
    """The module, such as "model.layers.0", or embedding or head."""
    kl_divergence: float
    """When it alone is quantized, in nats a token."""
    kept: bool
    without: Mapping[str, float]
    """Of a piece that is kept: the figures that miss their limits when it is not, by name."""


@dataclass(frozen=True, kw_only=True)
class BisectOutcome(PlainValues):
    """The pieces to keep in float so that the gate passes, none of which can be left out."""

    output: Path
    against: str
    pieces: Sequence[TriedPiece]
    """The one that does most harm alone first; none where the gate passes as it is."""
    language_quantized: LanguageFigures
    """With nothing kept."""
    verdicts_quantized: Sequence[Verdict]
    language: LanguageFigures
    """With those in float that are kept."""
    verdicts: Sequence[Verdict]
    settings: Sequence[str]
    """What --set of castline compile takes to keep them: FIELD=VALUE each."""
    mixes: int
    """How many mixes of both models were run."""
    seconds: float
    notes: Sequence[str] = ()

    @property
    def kept(self) -> tuple[TriedPiece, ...]:
        return tuple(piece for piece in self.pieces if piece.kept)

    def to_json(self) -> dict[str, object]:
        """The fields by name; a verdict also says whether it passed."""
        judged = {
            name: [{**plain_fields(one), "passed": one.passed} for one in verdicts]
            for name, verdicts in (
                ("verdicts", self.verdicts),
                ("verdicts_quantized", self.verdicts_quantized),
            )
        }
        return {**super().to_json(), **judged}
