"""Say what a case of accuracy.py is: one quantization of one model by one tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

CASTLINE, LLM_COMPRESSOR, MODELOPT = "castline", "llm-compressor", "ModelOpt"
NNCF, AUTOAWQ = "NNCF", "AutoAWQ"
SAMPLE, PLANTED = "sample", "planted"  # the models
CALIBRATION = "calibration.samples=8"
"""A quarter of our default; the peers get the same tokens."""

Task: TypeAlias = Mapping[str, str | int | float | None]


class Case(Protocol):
    """What a case must tell."""

    @property
    def model(self) -> str: ...
    @property
    def tool(self) -> str: ...
    @property
    def scheme(self) -> str:
        """The granularity, by name."""

    @property
    def bits(self) -> int: ...
    @property
    def method(self) -> str:
        """How the numbers are found, in a few words."""

    @property
    def recipe(self) -> str:
        """Ours."""

    @property
    def changes(self) -> tuple[str, ...]:
        """Values of --set for it."""

    @property
    def needs_plan(self) -> bool:
        """Whether ours takes numbers from the calibration text."""

    @property
    def script(self) -> str:
        """A peer's, in peers/."""

    @property
    def task(self) -> Task:
        """What it is told."""
