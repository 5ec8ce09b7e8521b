"""Say what a recipe is: what to quantize, how, by which numbers, and how close it must stay."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from castline.compiler.quant.scheme import ActivationScheme, CacheScheme, WeightScheme
from castline.compiler.recipes.calibration import Calibration
from castline.compiler.recipes.quantized import (
    QuantizedActivations,
    QuantizedAttention,
    QuantizedCache,
    QuantizedWeights,
)
from castline.compiler.recipes.reassembly import Correction, Reassembly
from castline.compiler.recipes.scaling import Clipping, Scaling
from castline.compiler.recipes.section import Section
from castline.compiler.recipes.smoothing import Smoothing
from castline.compiler.recipes.thresholds import Thresholds

Algorithm: TypeAlias = Literal["round-to-nearest", "smoothquant", "awq", "as-stored"]

Rounding: TypeAlias = Literal["nearest", "compensated"]

SECTION = "a section with bits, group_size and symmetric"


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
    algorithm: Algorithm = Field(
        default="round-to-nearest", description="round-to-nearest, smoothquant, awq or as-stored"
    )
    weights: QuantizedWeights | None = Field(description=f"{SECTION}, or null (not quantized)")
    activations: QuantizedActivations | None = Field(
        default=None,
        description="a section with bits, granularity and scales, or null (not quantized)",
    )
    attention: QuantizedAttention | None = Field(
        default=None,
        description="a section with bits and symmetric (of queries, keys and values), or null (not "
        "quantized)",
    )
    kv_cache: QuantizedCache | None = Field(
        default=None, description="a section with granularity, or null (not quantized)"
    )
    smoothing: Smoothing = Field(
        default=Smoothing(), description="a section with alpha and sites, read by smoothquant"
    )
    scaling: Scaling = Field(
        default=Scaling(), description="a section with steps and sites, read by awq"
    )
    clipping: Clipping | None = Field(
        default=None,
        description="a section with shrink and steps, or null (ranges are not searched)",
    )
    rounding: Rounding = Field(
        default="nearest",
        description="nearest, or compensated (each code makes up for what the others lost)",
    )
    reassembly: Reassembly | None = Field(
        default=None,
        description="a section with ratio, steps, metrics and sites, or null (channels stay as "
        "they are)",
    )
    correction: Correction | None = Field(
        default=None,
        description="a section with rank, window, epochs, learning_rate and batch, or null "
        "(nothing is learned)",
    )
    calibration: Calibration = Field(
        default=Calibration(),
        description="a section with text, samples, length, seed and chat_template",
    )
    keep: tuple[str, ...] = Field(
        default=(),
        strict=False,  # YAML has lists
        description="a list of patterns of weight names whose linears stay in float, such as "
        "model.layers.0.* or *.down_proj.weight",
    )
    head: KeepOrQuantize = Field(default="keep", description=f"keep, or {SECTION}")
    embedding: KeepOrQuantize = Field(default="keep", description=f"keep, or {SECTION}")
    gate: Thresholds = Field(default=Thresholds(), description="a section with the thresholds")

    @property
    def as_stored(self) -> bool:
        """Whether the codes of a quantized checkpoint are carried over as they are."""
        return self.algorithm == "as-stored"

    @property
    def weights_scheme(self) -> WeightScheme | None:
        """How the linears of the layers are quantized; None leaves them as they are."""
        return None if self.weights is None else self.weights.scheme

    @property
    def activations_scheme(self) -> ActivationScheme | None:
        """How what the linears of the layers read is quantized; None leaves it in float."""
        return None if self.activations is None else self.activations.scheme

    @property
    def attention_scheme(self) -> ActivationScheme | None:
        """How queries, keys and values are quantized, by token and head; None: they are float."""
        return None if self.attention is None else self.attention.scheme

    @property
    def cache_scheme(self) -> CacheScheme | None:
        """How keys and values are kept; None leaves them in float."""
        return None if self.kv_cache is None else self.kv_cache.scheme

    @property
    def head_scheme(self) -> WeightScheme | None:
        """How the output head is quantized; None leaves it as it is."""
        return None if self.head == "keep" else self.head.scheme

    @property
    def embedding_scheme(self) -> WeightScheme | None:
        """How the embedding is quantized; None leaves it as it is."""
        return None if self.embedding == "keep" else self.embedding.scheme

    @property
    def folds(self) -> bool:
        """Whether scales are searched and folded."""
        return self.algorithm in ("smoothquant", "awq")

    @property
    def searches_codes(self) -> bool:
        """Whether the codes of weights are chosen by what is read, and not by rounding alone."""
        if self.weights is None:
            return False
        explicit = self.algorithm == "awq" and self.scaling.explicit  # no fold scales the weights
        qllm = self.reassembly is not None or self.correction is not None
        return explicit or qllm or self.weighs_errors

    @property
    def weighs_errors(self) -> bool:
        """Whether codes are chosen by what their errors cost at the output of the linear."""
        return self.clipping is not None or self.rounding == "compensated"

    @property
    def reads_moments(self) -> bool:
        """Whether the search needs to know how what linears read goes together."""
        return self.algorithm == "awq" or self.reassembly is not None or self.weighs_errors

    @property
    def needs_calibration(self) -> bool:
        """Whether it takes numbers from a text, and so a plan."""
        scheme = self.activations_scheme
        static = scheme is not None and not scheme.dynamic
        return self.folds or self.searches_codes or static or self.kv_cache is not None

    @model_validator(mode="after")
    def _agrees(self) -> Recipe:
        asked = (self.weights, self.activations, self.attention, self.kv_cache)
        keeps = self.head == self.embedding == "keep" and not self.keep
        if self.as_stored and not (keeps and asked == (None,) * 4):
            raise ValueError(
                "as-stored carries over what the checkpoint stores; expected weights, "
                "activations, attention and kv_cache null, head and embedding keep, and nothing in "
                "keep"
            )
        if self.algorithm == "awq" and self.weights is None:
            raise ValueError("algorithm is awq, which quantizes weights, and weights is null")
        if self.weights is None and (self.clipping or self.rounding == "compensated"):
            raise ValueError(
                "clipping and rounding say how codes of weights are chosen, and weights is null; "
                "expected clipping null and rounding nearest"
            )
        if self.searches_codes and self.weights and self.weights.group_size == "per-tensor":
            raise ValueError(
                "clipping, rounding compensated and scaling.explicit choose codes by groups or "
                "channels; weights.group_size is per-tensor"
            )
        if self.algorithm == "awq" and self.scaling.explicit and self.activations is not None:
            raise ValueError(
                "scaling.explicit divides what linears read in float; with activations in codes "
                "set it to false"
            )
        if (self.weights is not None and self.weights.two_level) and (
            self.activations is None or self.activations.scales == "static"
        ):
            raise ValueError(
                "weights.two_level is for products of codes with activations whose scales are "
                "taken at run time; expected a section of activations with scales dynamic, or "
                "two_level false"
            )
        if any(part != "keep" and part.two_level for part in (self.head, self.embedding)):
            raise ValueError(
                "head and embedding are multiplied and looked up in float; expected two_level "
                "false in them"
            )
        if self.reassembly is not None and self.activations is None:
            raise ValueError(
                "reassembly makes activations easier to quantize, and activations is null; "
                "expected a section of activations, or reassembly null"
            )
        if self.correction is not None and self.weights is None:
            raise ValueError(
                "correction is merged into weights before they are quantized, and weights is null"
            )
        if self.correction is not None and self.algorithm == "awq" and self.scaling.explicit:
            raise ValueError("correction does not know scaling.explicit; set it to false")
        if self.attention is not None and self.kv_cache is not None:
            raise ValueError(
                "attention and kv_cache both say how keys and values are quantized; expected null "
                "for one of them"
            )
        return self

    def keeps(self, weight: str) -> str | None:
        """Return the pattern by which a linear stays in float, or None where it is quantized.

        A pattern names a weight with or without its last part, which is ".weight" mostly.
        """
        names = (weight, weight.removesuffix(".weight"))
        for pattern in self.keep:
            if any(fnmatchcase(name, pattern) for name in names):
                return pattern
        return None

    @property
    def searched(self) -> dict[str, object]:
        """What a plan depends on: all but the name, the description and the gate."""
        return self.model_dump(
            mode="json", exclude={"name", "description", "gate", "head", "embedding"}
        )
