"""List the quantizations of weights alone that accuracy.py measures: AWQ and what is beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from accuracy_cases import (
    AUTOAWQ,
    CALIBRATION,
    CASTLINE,
    LLM_COMPRESSOR,
    MODELOPT,
    NNCF,
    SAMPLE,
    Task,
)

SCRIPTS = {
    LLM_COMPRESSOR: "llmcompressor_awq.py",
    MODELOPT: "modelopt_awq.py",
    NNCF: "nncf_awq.py",
    AUTOAWQ: "autoawq_awq.py",
}
ROUND, SCALE, CLIP = "round-to-nearest", "AWQ", "AWQ, clip"
COMPENSATED, QUICK = "AWQ, clip, compensated", "clip, compensated"
SCALES, GPTQ = "AWQ, scales", "GPTQ"
ROUNDED = "rounding=nearest"
OURS: dict[str, tuple[str, ...]] = {
    ROUND: ("algorithm=round-to-nearest", "clipping=null", ROUNDED),
    SCALE: ("clipping=null", ROUNDED),
    CLIP: (ROUNDED,),
    QUICK: ("algorithm=round-to-nearest",),
    COMPENSATED: (),
}
"""What each method changes of the preset, which is the last."""


@dataclass(frozen=True)
class Scheme:
    """One form of the codes, the same for every tool."""

    bits: int
    group_size: int
    symmetric: bool

    @property
    def name(self) -> str:
        """As it stands in the results, which have the bits beside it."""
        return f"g{self.group_size}{'' if self.symmetric else ' zero-points'}"


COMPARED = Scheme(4, 64, symmetric=True)
"""Where every peer is measured; elsewhere those whose search does not take ten minutes."""
SCHEMES = (
    COMPARED,
    Scheme(3, 64, symmetric=True),
    Scheme(4, 128, symmetric=True),
    Scheme(3, 128, symmetric=True),
    Scheme(4, 32, symmetric=True),
    Scheme(3, 32, symmetric=True),
    Scheme(4, 64, symmetric=False),
    Scheme(3, 64, symmetric=False),
    Scheme(4, 128, symmetric=False),  # that of the preset w4a16-awq
)


@dataclass(frozen=True)
class Case:
    """One quantization of the sample's weights by one tool."""

    tool: str
    form: Scheme
    method: str
    model: str = SAMPLE

    @property
    def scheme(self) -> str:
        """Its name."""
        return self.form.name

    @property
    def bits(self) -> int:
        """Of the weights."""
        return self.form.bits

    @property
    def needs_plan(self) -> bool:
        """Whether ours searches."""
        return self.method != ROUND

    @property
    def recipe(self) -> str:
        """Ours."""
        if self.form.bits == 3:
            return "w3a16-awq"
        return "w4a16-awq-sym" if self.form.symmetric else "w4a16-awq"

    @property
    def changes(self) -> tuple[str, ...]:
        """Values of --set for our recipe."""
        form = (
            f"weights.bits={self.form.bits}",
            f"weights.group_size={self.form.group_size}",
            f"weights.symmetric={str(self.form.symmetric).lower()}",
        )
        return (CALIBRATION, *form, *OURS[self.method])

    @property
    def script(self) -> str:
        """A peer's."""
        return SCRIPTS[self.tool]

    @property
    def task(self) -> Task:
        """The same for a peer's script."""
        return {
            "method": self.method,
            "bits": self.form.bits,
            "group_size": self.form.group_size,
            "symmetric": self.form.symmetric,
        }


def cases() -> Iterator[Case]:
    """Yield every case, those of one scheme beside each other, and the slowest peer last."""
    for scheme in SCHEMES:
        methods = OURS if scheme.symmetric else (ROUND, COMPENSATED)
        yield from (Case(CASTLINE, scheme, method) for method in methods)
        yield from _peers(scheme)
    yield Case(AUTOAWQ, COMPARED, CLIP)


def _peers(scheme: Scheme) -> Iterator[Case]:
    """Yield what the peers do at a scheme, each where it can."""
    if scheme.bits == 4:  # NNCF has no other
        yield Case(NNCF, scheme, SCALES)
    if scheme.group_size != 128:  # divides no row of 576, which llm-compressor insists on
        yield Case(LLM_COMPRESSOR, scheme, GPTQ)
    if scheme == COMPARED:
        yield Case(LLM_COMPRESSOR, scheme, SCALE)
    if scheme.symmetric and scheme.bits == 4:  # as ModelOpt's presets are
        yield Case(MODELOPT, scheme, SCALE)
