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
GROUP_SIZES = (64, 128, 32)
SLOW_AT = 64
"""The groups in which peers are measured whose search takes five to twenty minutes."""
ROUND, SCALE, CLIP = "round-to-nearest", "AWQ", "AWQ, clip"
COMPENSATED = "AWQ, clip, compensated"
SCALES, GPTQ = "AWQ, scales", "GPTQ"
ROUNDED = "rounding=nearest"
OURS: dict[str, tuple[str, ...]] = {
    ROUND: ("algorithm=round-to-nearest", "clipping=null", ROUNDED),
    SCALE: ("clipping=null", ROUNDED),
    CLIP: (ROUNDED,),
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
    """Yield every case, those of one scheme beside each other."""
    for bits in (4, 3):
        for group_size in GROUP_SIZES:
            for symmetric in (True, False):
                scheme = Scheme(bits, group_size, symmetric)
                yield from (Case(CASTLINE, scheme, method) for method in OURS)
                yield from _peers(scheme)


def _peers(scheme: Scheme) -> Iterator[Case]:
    """Yield what the peers do at a scheme, each where it can; the slow ones at g64 only."""
    slow = scheme.group_size == SLOW_AT
    if scheme.symmetric:  # ModelOpt's presets have no zero-points
        yield Case(MODELOPT, scheme, SCALE)
        if slow:
            yield Case(MODELOPT, scheme, CLIP)
    if scheme.bits == 4:  # NNCF has no other
        yield Case(NNCF, scheme, SCALES)
    if scheme.group_size == 128:  # divides no row of 576, which the others insist on
        return
    yield Case(LLM_COMPRESSOR, scheme, GPTQ)
    if slow:
        yield Case(LLM_COMPRESSOR, scheme, SCALE)
        yield Case(AUTOAWQ, scheme, CLIP)
