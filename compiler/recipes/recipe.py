"""Say what a recipe is: which weights to quantize, how, and how close the result must stay."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.section import Section
from castline.compiler.recipes.thresholds import Thresholds

SECTION = "a section with bits, group_size and symmetric"


class QuantizedWeights(Section):
    """How the weights of one kind of layer are quantized."""

    bits: Literal[4, 8] = Field(description="4 or 8")
    group_size: Literal[32, 64, 128, "per-channel"] = Field(
        description="32, 64, 128 (weights along K that share one scale) or per-channel"
    )
    symmetric: bool = Field(description="true (no zero-points) or false")

    @property
    def scheme(self) -> WeightScheme:
        """The same in the words of the arithmetic; a group size of None is per channel."""
        group_size = None if self.group_size == "per-channel" else self.group_size
        return WeightScheme(bits=self.bits, group_size=group_size, symmetric=self.symmetric)


def _kind(value: object) -> str:
    return "section" if isinstance(value, dict | QuantizedWeights) else "keep"


KeepOrQuantize = Annotated[
    Annotated[Literal["keep"], Tag("keep")] | Annotated[QuantizedWeights, Tag("section")],
    Discriminator(_kind),
]


class Recipe(Section):
    """One way to quantize a model, as its YAML file says it."""

    name: str = Field(min_length=1, description="a name")
    description: str = Field(default="", description="a sentence")
    algorithm: Literal["round-to-nearest"] = Field(
        default="round-to-nearest", description="round-to-nearest"
    )
    weights: QuantizedWeights | None = Field(description=f"{SECTION}, or null (not quantized)")
    head: KeepOrQuantize = Field(default="keep", description=f"keep, or {SECTION}")
    embedding: KeepOrQuantize = Field(default="keep", description=f"keep, or {SECTION}")
    gate: Thresholds = Field(default=Thresholds(), description="a section with the thresholds")

    @property
    def weights_scheme(self) -> WeightScheme | None:
        """How the linears of the layers are quantized; None leaves them as they are."""
        return None if self.weights is None else self.weights.scheme

    @property
    def head_scheme(self) -> WeightScheme | None:
        """How the output head is quantized; None leaves it as it is."""
        return None if self.head == "keep" else self.head.scheme

    @property
    def embedding_scheme(self) -> WeightScheme | None:
        """How the embedding is quantized; None leaves it as it is."""
        return None if self.embedding == "keep" else self.embedding.scheme
