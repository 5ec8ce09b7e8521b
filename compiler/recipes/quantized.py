"""Say in a recipe how weights, activations and the cache are quantized."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from castline.compiler.quant.scheme import (
    ActivationScheme,
    CacheScheme,
    RangeMethod,
    WeightScheme,
)
from castline.compiler.recipes.section import Section

METHODS = "max, percentile, mse or entropy (how the range of the codes is chosen)"


class _Ranged(Section):
    """What has a range that may be narrower than its values."""

    range: Literal["max", "percentile", "mse", "entropy"] = Field(
        default="max", description=METHODS
    )
    percentile: float = Field(
        default=99.9,
        gt=50,
        le=100,
        description="a number above 50, up to 100: per cent of the values within the range, read "
        "where range is percentile",
    )

    @property
    def range_method(self) -> RangeMethod:
        """The same in the words of the arithmetic; a percentile that is not read is left out."""
        return (
            RangeMethod(self.range, self.percentile)
            if self.range == "percentile"
            else (RangeMethod(self.range))
        )


class QuantizedWeights(_Ranged):
    """How the weights of one kind of layer are quantized."""

    bits: Literal[2, 3, 4, 5, 6, 7, 8] = Field(description="a whole number from 2 to 8")
    group_size: Literal[16, 32, 64, 128, "per-channel", "per-tensor"] = Field(
        description="16, 32, 64, 128 (weights along K that share one scale), per-channel or "
        "per-tensor"
    )
    symmetric: bool = Field(description="true (no zero-points) or false")
    two_level: bool = Field(
        default=False,
        description="true (the scales of groups are integers times one scale per channel, so that "
        "products with activations in codes are summed in integers) or false",
    )

    @model_validator(mode="after")
    def _agrees(self) -> QuantizedWeights:
        self.scheme  # noqa: B018 - raises ValueError for what does not go together
        return self

    @property
    def scheme(self) -> WeightScheme:
        """The same in the words of the arithmetic."""
        return WeightScheme(
            self.bits, self.group_size, self.symmetric, self.range_method, self.two_level
        )


class QuantizedActivations(_Ranged):
    """How what linears read is quantized."""

    bits: Literal[2, 3, 4, 5, 6, 7, 8] = Field(description="a whole number from 2 to 8")
    granularity: Literal["per-tensor", "per-token"] = Field(
        description="per-tensor (one scale) or per-token (each token has its own)"
    )
    scales: Literal["static", "dynamic"] = Field(
        description="static (from the calibration text) or dynamic (from the values at run time)"
    )
    symmetric: bool = Field(default=True, description="true (no zero-points) or false")

    @model_validator(mode="after")
    def _agrees(self) -> QuantizedActivations:
        self.scheme  # noqa: B018 - raises ValueError for what does not go together
        return self

    @property
    def scheme(self) -> ActivationScheme:
        """The same in the words of the arithmetic."""
        return ActivationScheme(
            self.bits,
            self.granularity,
            dynamic=self.scales == "dynamic",
            symmetric=self.symmetric,
            range=self.range_method,
        )


class QuantizedAttention(Section):
    """How what attention reads is quantized, each token of each head by a scale of its own."""

    bits: Literal[2, 3, 4, 5, 6, 7, 8] = Field(description="a whole number from 2 to 8")
    symmetric: bool = Field(default=False, description="true (no zero-points) or false")

    @property
    def scheme(self) -> ActivationScheme:
        """The same in the words of the arithmetic; a token's values are those of one head."""
        return ActivationScheme(self.bits, "per-token", dynamic=True, symmetric=self.symmetric)


class QuantizedCache(Section):
    """How keys and values are kept in the cache."""

    bits: Literal[8] = Field(default=8, description="8")
    granularity: Literal["per-tensor", "per-channel"] = Field(
        description="per-tensor (one scale for a layer's keys, one for its values) or per-channel"
    )

    @property
    def scheme(self) -> CacheScheme:
        """The same in the words of the arithmetic."""
        return CacheScheme(self.granularity)
