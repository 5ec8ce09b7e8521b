"""What an outcome needs to know of figures and verdicts, whoever measured them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class LanguageFigures(Protocol):
    """Two language models read the same held-out text."""

    @property
    def perplexity_original(self) -> float: ...
    @property
    def perplexity(self) -> float: ...
    @property
    def kl_divergence(self) -> float:
        """Mean per token of KL(original || result), in nats."""
        ...

    @property
    def top1_agreement(self) -> float:
        """The share of tokens whose likeliest successor is the same, 0 to 1."""
        ...

    @property
    def tokens(self) -> int: ...


class EncodingFigures(Protocol):
    """Two encoders read the same held-out texts; a cosine is that of their two vectors."""

    @property
    def hidden_cosine(self) -> float:
        """Mean over tokens."""
        ...

    @property
    def worst_hidden_cosine(self) -> float: ...
    @property
    def relative_error(self) -> float:
        """|result - original| / |original| over all vectors."""
        ...

    @property
    def embedding_cosine(self) -> float:
        """Mean over texts, of the means of their vectors."""
        ...

    @property
    def worst_embedding_cosine(self) -> float: ...
    @property
    def similarity_correlation(self) -> float:
        """Rank correlation of the similarities between every two texts, -1 to 1."""
        ...

    @property
    def tokens(self) -> int: ...
    @property
    def passages(self) -> int: ...


class TensorFigure(Protocol):
    """One output of both models for the same input."""

    @property
    def name(self) -> str: ...
    @property
    def relative_error(self) -> float: ...
    @property
    def cosine(self) -> float: ...


class TensorFigures(Protocol):
    """The outputs of both models for the same input."""

    @property
    def outputs(self) -> Sequence[TensorFigure]: ...


class LayerFigures(Protocol):
    """The hidden states of both models after each layer, in order."""

    @property
    def layers(self) -> Sequence[TensorFigure]: ...
    @property
    def first_to_diverge(self) -> TensorFigure | None:
        """The first that is too far from the original's; None if none is."""
        ...

    @property
    def criterion(self) -> str:
        """When a layer is too far, in words."""
        ...


class Verdict(Protocol):
    """One figure held against its limit."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> float | None: ...
    @property
    def limit(self) -> float: ...
    @property
    def at_most(self) -> bool: ...
    @property
    def passed(self) -> bool: ...


class Speed(Protocol):
    """How fast a model reads and writes at batch 1."""

    @property
    def prefill(self) -> float:
        """Tokens per second of a prompt, or of a text that an encoder reads."""
        ...

    @property
    def decode(self) -> float | None:
        """New tokens per second; None for an encoder."""
        ...

    @property
    def threads(self) -> int | None: ...
