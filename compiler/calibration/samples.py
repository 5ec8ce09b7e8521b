"""Choose the samples that a quantization takes its numbers from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.calibration.conversations import conversation_samples
from castline.compiler.calibration.text import load_documents, load_text, text_sha256
from castline.compiler.calibration.windows import random_windows
from castline.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens: TypeAlias = NDArray[np.int64]

SHIPPED = "shipped"


@dataclass(frozen=True, eq=False)
class CalibrationSamples:
    """Tokens to calibrate on, and where they are from."""

    tokens: Tokens
    """[samples, length], special tokens included."""
    source: str
    """As the user named it, or "shipped"."""
    sha256: str
    """Of the whole text that the samples were chosen from, in UTF-8, before any template."""
    seed: int
    chat_template: bool


def calibration_samples(
    tokenizer: PreTrainedTokenizerBase,
    source: str | None,
    *,
    samples: int,
    length: int,
    seed: int,
    chat_template: bool,
    longest: int,
) -> CalibrationSamples:
    """Return `samples` samples of `length` tokens, chosen at random by `seed` from a text.

    `source` is as load_text takes it; None is the text that ships with Castline. With
    `chat_template` its documents become chats with the model. `longest` is how many positions the
    model has. Source of the way to choose: Xiao et al., SmoothQuant, arXiv:2211.10438, section 5.1,
    which takes 512 sentences. Raises RecipeError for a source that is not there or not text, for
    one too short, and for samples that the model cannot read.
    """
    _require_possible(samples, length, longest)
    text = load_text(source, "calibration")
    if not text.strip():
        raise RecipeError(f"{source}: the calibration text is empty. Give one with text in it.")
    if chat_template:
        documents = load_documents(source, "calibration")
        tokens = conversation_samples(tokenizer, documents, length=length, count=samples, seed=seed)
    else:
        tokens = random_windows(tokenizer, text, length=length, count=samples, seed=seed)
    return CalibrationSamples(tokens, source or SHIPPED, text_sha256(text), seed, chat_template)


def _require_possible(samples: int, length: int, longest: int) -> None:
    if samples < 1 or length < 1:
        raise RecipeError(
            f"calibration: {samples} samples of {length} tokens asked for; expected at least 1 "
            "of at least 1."
        )
    if length > longest:
        raise RecipeError(
            f"calibration.length: samples of {length} tokens are longer than the {longest} "
            f"positions that the model has. Set it to at most {longest}."
        )
