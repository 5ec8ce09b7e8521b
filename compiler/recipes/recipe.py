"""Say what a recipe is: which weights to quantize, how, and how close the result must stay."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.quant.thresholds import Thresholds

SECTION = "a section with bits, group_size and symmetric"


class _Section(BaseModel):
    # Strict, because a recipe that says `bits: "4"` or `symmetric: 1` was written by mistake.
    # A field's description is what an error says was expected there.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class QuantizedWeights(_Section):
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


class Gate(_Section):
    """How far the result may be from the original; a number that is absent is not judged."""

    perplexity_ratio: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="the largest result / original perplexity, a number above 0",
    )
    kl_divergence: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="the largest mean KL divergence in nats per token, a number from 0",
    )
    top1_agreement: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="the smallest share of equal likeliest tokens, a number from 0 to 1",
    )
    logits_cosine: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="the smallest cosine similarity of the logits, a number from 0 to 1",
    )


def _kind(value: object) -> str:
    return "section" if isinstance(value, dict | QuantizedWeights) else "keep"


KeepOrQuantize = Annotated[
    Annotated[Literal["keep"], Tag("keep")] | Annotated[QuantizedWeights, Tag("section")],
    Discriminator(_kind),
]


class Recipe(_Section):
    """One way to quantize a model, as its YAML file says it."""

    name: str = Field(min_length=1, description="a name")
    description: str = Field(default="", description="a sentence")
    algorithm: Literal["round-to-nearest"] = Field(
        default="round-to-nearest", description="round-to-nearest"
    )
    weights: QuantizedWeights | None = Field(description=f"{SECTION}, or null (not quantized)")
    head: KeepOrQuantize = Field(default="keep", description=f"keep, or {SECTION}")
    embedding: KeepOrQuantize = Field(default="keep", description=f"keep, or {SECTION}")
    gate: Gate = Field(default=Gate(), description="a section with the thresholds")

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

    @property
    def thresholds(self) -> Thresholds:
        """The gate in the words of the check."""
        return Thresholds(
            perplexity_ratio=self.gate.perplexity_ratio,
            kl_divergence=self.gate.kl_divergence,
            top1_agreement=self.gate.top1_agreement,
            logits_cosine=self.gate.logits_cosine,
        )
