"""Say what an export, a compilation or a check came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from castline.compiler.report.figures import (
    EncodingFigures,
    LanguageFigures,
    LayerFigures,
    Speed,
    TensorFigures,
    Verdict,
)
from castline.compiler.report.plain import PlainValues, plain_fields


@dataclass(frozen=True, kw_only=True)
class ExportOutcome(PlainValues):
    """What `castline export` wrote."""

    output: Path
    source: str
    source_path: Path | None
    """Where the source was, if it was a folder or a file; None for a hub id."""
    architecture: str
    layers: int
    dtype: str
    nodes: int
    bytes: int
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison(PlainValues):
    """How a result compares with its original."""

    language: LanguageFigures | None
    """None: not measured, or the model is an encoder."""
    encoding: EncodingFigures | None = None
    """None: not measured, or the model is a decoder."""
    tensors: TensorFigures | None
    verdicts: Sequence[Verdict]
    """One for each threshold of the recipe; none when the gate was off."""

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)

    def to_json(self) -> dict[str, object]:
        """The fields by name; a verdict also says whether it passed."""
        verdicts = [{**plain_fields(one), "passed": one.passed} for one in self.verdicts]
        return {**super().to_json(), "verdicts": verdicts}


@dataclass(frozen=True, kw_only=True)
class CompileOutcome(Comparison):
    """What `castline compile` wrote, and how it compares with the original."""

    output: Path
    source: str
    source_path: Path | None
    """Where the source was, if it was a folder or a file; None for a hub id."""
    recipe: str
    target: str
    original_bytes: int
    bytes: int
    original_speed: Speed | None
    speed: Speed | None
    bits_per_weight: float
    seconds: float
    notes: tuple[str, ...] = ()
    not_executed: tuple[str, ...] = ()
    """What could not be run here, such as an engine for want of a GPU, a sentence each."""
    build_seconds: float | None = None
    """How long the builder of an engine took; None where none was built."""
    build_peak_memory_bytes: int | None = None
    """The largest resident size of the builder's process."""
    quantization: Mapping[str, object] | None = None
    """What plan_json says of the plan; None where nothing was searched."""
    stored_codes: Mapping[str, object] | None = None
    """What became of the codes of a quantized checkpoint: codes, changed, rounded, sqnr_db and
    rounded_input_scales; None where it is in float."""


@dataclass(frozen=True, kw_only=True)
class BuildOutcome(PlainValues):
    """What `castline build` made of a compiled folder."""

    output: Path
    target: str
    version: str
    """Of the TensorRT that built it."""
    bytes: int
    """Of the engine."""
    seconds: float
    peak_memory_bytes: int | None = None
    """The largest resident size of the builder's process; None where weights were put in."""
    notes: tuple[str, ...] = ()
    not_executed: tuple[str, ...] = ()
    """What could not be run here, a sentence each."""


@dataclass(frozen=True, kw_only=True)
class CheckOutcome(Comparison):
    """How an output compares with the original now."""

    output: Path
    against: str
    layers: LayerFigures | None = None
    """None: not asked for."""
    commands: Sequence[str] = ()
    """What repeats the comparison by Polygraphy alone, a command each; none: not asked for."""
    seconds: float
    notes: tuple[str, ...] = ()
    not_executed: tuple[str, ...] = ()
    """What could not be run when the output was compiled, as its manifest says, or now."""

    def to_json(self) -> dict[str, object]:
        """The fields by name; of layers also the first that diverges, and by what criterion."""
        plain = super().to_json()
        if self.layers is not None:
            first = self.layers.first_to_diverge
            plain["layers"] = {
                "layers": [plain_fields(one) for one in self.layers.layers],
                "first_to_diverge": None if first is None else first.name,
                "criterion": self.layers.criterion,
            }
        return plain
