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
        """Prompt tokens per second."""
        ...

    @property
    def decode(self) -> float:
        """New tokens per second."""
        ...

    @property
    def threads(self) -> int | None: ...
