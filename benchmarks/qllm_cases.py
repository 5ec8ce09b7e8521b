"""List the quantizations at few bits that accuracy.py measures: QLLM and what is beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from accuracy_cases import CALIBRATION, CASTLINE, SAMPLE, Task

ROUND, SMOOTH = "round-to-nearest", "SmoothQuant"
REASSEMBLED, CORRECTED = "reassembly", "reassembly, correction"
WITHOUT_QLLM = ("reassembly=null", "correction=null")
OURS: dict[str, tuple[str, ...]] = {
    ROUND: WITHOUT_QLLM,
    # Folded at all sites that a model has, where it does best.
    SMOOTH: (*WITHOUT_QLLM, "algorithm=smoothquant", "smoothing.sites=[norm, value, up, relu]"),
    REASSEMBLED: ("correction=null",),
    CORRECTED: (),
}
"""What each method changes of the preset, which is the last."""


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
        return (CALIBRATION, *bits, *OURS[self.method])

    @property
    def task(self) -> Task:
        """Nothing, as there is no peer to tell."""
        return {}


def cases() -> Iterator[Case]:
    """Yield every case, those of one scheme beside each other."""
    for scheme in SCHEMES:
        yield from (Case(scheme, method) for method in OURS)
