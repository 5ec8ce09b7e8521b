"""Say what comparing a result with its original gives."""

from __future__ import annotations

from dataclasses import dataclass

from castline.compiler.check.encoding import EncodingFigures
from castline.compiler.check.gate import Verdict
from castline.compiler.check.language import LanguageFigures
from castline.compiler.check.tensors import TensorFigures


@dataclass(frozen=True)
class Measured:
    """A result beside its original."""

    tensors: TensorFigures
    verdicts: tuple[Verdict, ...]
    language: LanguageFigures | None = None
    """Of a decoder."""
    encoding: EncodingFigures | None = None
    """Of an encoder."""
    notes: tuple[str, ...] = ()
    """For the outcome of a compilation, a sentence each."""


@dataclass(frozen=True)
class Speed:
    """Tokens per second at batch 1, the median of several runs."""

    prefill: float
    """Tokens of a prompt, or of a text that an encoder reads."""
    decode: float | None
    """New tokens; None for an encoder, which writes none."""
    threads: int | None
    """Threads of the runtime; None leaves it the choice."""


@dataclass(frozen=True)
class Speeds:
    """How fast the original and the result are in the same process, with the same threads."""

    original: Speed
    result: Speed
