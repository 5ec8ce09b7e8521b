"""List the quantizations of weights and activations that accuracy.py measures: SmoothQuant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from accuracy_cases import CALIBRATION, CASTLINE, LLM_COMPRESSOR, MODELOPT, PLANTED, SAMPLE, Task

SCRIPTS = {
    LLM_COMPRESSOR: "llmcompressor_smoothquant.py",
    MODELOPT: "modelopt_smoothquant.py",
}
NORM_SITES = "smoothing.sites=[norm]"


@dataclass(frozen=True)
class Scheme:
    """One granularity of weights and activations."""

    name: str
    weights: str
    """As the peers' scripts are told."""
    activations: str
    recipe: str
    """Ours, with SmoothQuant."""


O1 = Scheme("O1", "per-tensor", "token-dynamic", "w8a8-smoothquant-o1")
O2 = Scheme("O2", "per-tensor", "tensor-dynamic", "w8a8-smoothquant-o2")
O3 = Scheme("O3", "per-tensor", "tensor-static", "w8a8-smoothquant-o3")
PER_TOKEN = Scheme("channel, token", "per-channel", "token-dynamic", "w8a8-smoothquant")
STATIC = Scheme("channel, static", "per-channel", "tensor-static", "w8a8-smoothquant-static")


@dataclass(frozen=True)
class Case:
    """One quantization of one model by one tool."""

    model: str
    tool: str
    levels: Scheme
    bits: int
    """Of weights and activations."""
    smooth: bool
    alpha: float | None = None
    """The migration strength; None: the tool's own default, which is a search with ours."""
    norm_sites: bool = False
    """Ours: folds behind norms only, as the paper does, and not at v to o and up to down."""

    @property
    def scheme(self) -> str:
        """Its name."""
        return self.levels.name

    @property
    def recipe(self) -> str:
        """Ours, with SmoothQuant."""
        return self.levels.recipe

    @property
    def script(self) -> str:
        """A peer's."""
        return SCRIPTS[self.tool]

    @property
    def method(self) -> str:
        """What is done about outliers, in a few words."""
        if not self.smooth:
            return "naive"
        alpha = "" if self.alpha is None else f" {self.alpha:g}"
        return f"smooth{alpha}{', norm sites' if self.norm_sites else ''}"

    @property
    def needs_plan(self) -> bool:
        """Whether ours takes numbers from the calibration text."""
        return self.smooth or self.levels.activations == "tensor-static"

    @property
    def changes(self) -> tuple[str, ...]:
        """Values of --set for our recipe."""
        changes = [CALIBRATION]
        changes += [f"{part}.bits={self.bits}" for part in ("weights", "activations")]
        if not self.smooth:
            changes.append("algorithm=round-to-nearest")
        if self.alpha is not None:
            changes.append(f"smoothing.alpha={self.alpha}")
        if self.norm_sites:
            changes.append(NORM_SITES)
        return tuple(changes)

    @property
    def task(self) -> Task:
        """The same for a peer's script."""
        return {
            "weights": self.levels.weights,
            "activations": self.levels.activations,
            "bits": self.bits,
            "smooth": self.smooth,
            "alpha": self.alpha,
        }


def cases() -> Iterator[Case]:
    """Yield every case: 8 bits, the planted outliers, then fewer bits."""
    yield from _sample(8)
    for smooth in (False, True):
        yield Case(PLANTED, CASTLINE, O3, 8, smooth)
    for tool in (LLM_COMPRESSOR, MODELOPT):
        yield Case(PLANTED, tool, O3, 8, smooth=True)
    yield from _sample(6)


def _sample(bits: int) -> Iterator[Case]:
    """Yield the cases of the sample model, those of one scheme beside each other."""
    for scheme in (PER_TOKEN, STATIC, O3, O1, O2):
        for smooth in (False, True):
            yield Case(SAMPLE, CASTLINE, scheme, bits, smooth)
        if scheme is O3 and bits == 8:
            yield Case(SAMPLE, CASTLINE, scheme, bits, smooth=True, norm_sites=True)
        yield from peers(scheme, bits)


def peers(scheme: Scheme, bits: int) -> Iterator[Case]:
    """Yield what the peers do at a scheme: what their own presets and examples take."""
    if scheme is PER_TOKEN:
        yield Case(SAMPLE, LLM_COMPRESSOR, scheme, bits, smooth=True)
    if bits != 8:  # ModelOpt smooths 8 bits only
        return
    if scheme is PER_TOKEN:
        # 0.8 is what its examples take.
        yield Case(SAMPLE, LLM_COMPRESSOR, scheme, bits, smooth=True, alpha=0.8)
    if scheme is STATIC:
        yield Case(SAMPLE, MODELOPT, scheme, bits, smooth=False)
        yield Case(SAMPLE, MODELOPT, scheme, bits, smooth=True)
