"""Say in a recipe how QLLM takes outlier channels apart and corrects what quantization loses."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from castline.compiler.recipes.section import Section

ReadBy: TypeAlias = Literal["attention", "feed-forward", "down"]


class Reassembly(Section):
    """How outlier channels are taken apart, and others merged for them."""

    ratio: float = Field(
        default=0.2,
        gt=0,
        le=0.5,
        description="a number above 0, up to 0.5: how many channels may be merged, by all channels "
        "of a value",
    )
    steps: int = Field(
        default=10,
        ge=1,
        le=1000,
        description="a whole number from 1 to 1000: thresholds tried beside leaving all as it is",
    )
    metrics: tuple[Literal["merge-error", "signed-sums"], ...] = Field(
        default=("merge-error", "signed-sums"),
        strict=False,  # YAML has lists
        min_length=1,
        description="a list of the distances to merge by, of merge-error (the paper's) and "
        "signed-sums (its authors' code's); the better at each value is taken",
    )
    sites: tuple[ReadBy, ...] = Field(
        default=("attention", "feed-forward", "down"),
        strict=False,  # YAML has lists
        min_length=1,
        description="a list of the values to reassemble: those read by attention (q, k and v), by "
        "feed-forward (gate and up) and by down",
    )


class Correction(Section):
    """How low-rank matrices learn to make up for the quantization of a window of layers."""

    rank: int = Field(
        default=4, ge=1, le=256, description="a whole number from 1 to 256: of the matrices"
    )
    window: int = Field(
        default=4,
        ge=1,
        le=64,
        description="a whole number from 1 to 64: layers that learn together",
    )
    epochs: int = Field(
        default=10,
        ge=1,
        le=1000,
        description="a whole number from 1 to 1000: times that all samples are gone through",
    )
    learning_rate: float = Field(
        default=5e-4, gt=0, lt=1, description="a number between 0 and 1, at the first step"
    )
    batch: int = Field(
        default=1, ge=1, le=1024, description="a whole number from 1 to 1024: samples of a step"
    )
