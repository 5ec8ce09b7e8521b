"""List the quantizations at few bits that accuracy.py measures: QLLM and what is beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from accuracy_cases import CALIBRATION, CASTLINE, SAMPLE, Task

ROUND, SMOOTH = "round-to-nearest", "SmoothQuant"
REASSEMBLED, CORRECTED = "reassembly", "reassembly, correction"
ALL = "SmoothQuant, reassembly, correction, compensated"
PLAIN = ("algorithm=round-to-nearest", "rounding=nearest")  # as in the paper
# Folded at all sites that a model has, where it does best.
SMOOTHED = ("algorithm=smoothquant", "smoothing.sites=[norm, value, up, relu]")
OURS: dict[str, tuple[str, ...]] = {
    ROUND: (*PLAIN, "reassembly=null", "correction=null"),
    SMOOTH: (*SMOOTHED, "rounding=nearest", "reassembly=null", "correction=null"),
    REASSEMBLED: (*PLAIN, "correction=null"),
    CORRECTED: PLAIN,
    ALL: (*SMOOTHED, "rounding=compensated"),
}
"""What each method changes of the preset."""

SHORTER = ("correction.epochs=4", "correction.learning_rate=0.001")
"""Two fifths of the epochs, at twice the rate: as little as shows what a correction does."""


@dataclass(frozen=True)
class Scheme:
    """Bits of weights, a scale per channel, and of activations, a scale and zero-point per token.

    Weights of 4 bits have zero-points. Wider ones have none: integer products take no others.
    """

    weights: int
    activations: int
    recipe: str
    """Ours."""

    @property
    def name(self) -> str:
        """As the field writes it."""
        return f"W{self.weights}A{self.activations}"


SCHEMES = (
    Scheme(4, 4, "w4a4-qllm"),
    Scheme(4, 8, "w4a8-qllm"),
    Scheme(6, 6, "w6a6-qllm"),
    Scheme(8, 8, "w6a6-qllm"),  # which has the form, at other bits
)


@dataclass(frozen=True)
class Case:
    """One quantization of the sample; there is no peer, only research code for one architecture."""

    form: Scheme
    method: str
    model: str = SAMPLE
    tool: str = CASTLINE
    script: str = ""

    @property
    def scheme(self) -> str:
        """Its name."""
        return self.form.name

    @property
    def bits(self) -> int:
        """Of the weights."""
        return self.form.weights

    @property
    def needs_plan(self) -> bool:
        """Whether ours searches."""
        return self.method != ROUND

    @property
    def recipe(self) -> str:
        """Ours."""
        return self.form.recipe

    @property
    def changes(self) -> tuple[str, ...]:
        """Values of --set for our recipe."""
        bits = (f"weights.bits={self.form.weights}", f"activations.bits={self.form.activations}")
        shorter = () if "correction=null" in OURS[self.method] else SHORTER
        return (CALIBRATION, *bits, *shorter, *OURS[self.method])

    @property
    def task(self) -> Task:
        """Nothing, as there is no peer to tell."""
        return {}


def cases() -> Iterator[Case]:
    """Yield every case, those of one scheme beside each other."""
    for scheme in SCHEMES:
        yield from (Case(scheme, method) for method in OURS)
