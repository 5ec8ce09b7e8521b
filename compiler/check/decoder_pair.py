"""Compare a decoder with its original: what they predict, their tensors, their speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.check.evaluation_text import HeldOutText
from castline.compiler.check.gate import judge, nothing_judged
from castline.compiler.check.language import LanguageFigures, compare_language
from castline.compiler.check.measured import Measured, Speed, Speeds
from castline.compiler.check.original import OriginalModel
from castline.compiler.check.tensors import TensorFigures, compare_tensors
from castline.compiler.recipes.thresholds import Thresholds
from castline.compiler.targets.session import DecoderSession
from castline.exporters.context import context_length
from castline.exporters.names import LOGITS
from castline.progress import Progress, SilentProgress

Tokens: TypeAlias = NDArray[np.int64]

_TENSOR_TOKENS, _TENSOR_PADDING = 16, 5  # a batch of two rows, the first padded on its left
_PREFILL_TOKENS, _DECODE_TOKENS, _REPETITIONS = 128, 32, 3


@dataclass(frozen=True)
class DecoderPair:
    """A result and its original, the checkpoint in torch and float32, ready to run."""

    original: OriginalModel
    session: DecoderSession
    text: HeldOutText
    threads: int | None
    """What both run with; None leaves each the choice."""

    def measure(self, thresholds: Thresholds, progress: Progress | None = None) -> Measured:
        """Run both models on the same tokens, and judge the figures."""
        progress = progress or SilentProgress()
        windows = self.text.windows
        with progress.stage("Comparing tensors"):
            rows = windows[:2, : min(_TENSOR_TOKENS, windows.shape[1])]
            # A cache that is appended to in place counts positions by place, so padded rows of it
            # do not hold what the original's hold, though their logits agree.
            padding = 0 if self.session.shared_cache else _TENSOR_PADDING
            tensors = compare_tensors(self.original, self.session.session, rows, padding=padding)
        language = compare_language(self.original, self.session, windows, progress)
        figures = figures_to_judge(language, tensors)
        verdicts = judge(thresholds, figures)
        notes = nothing_judged(verdicts, figures)
        return Measured(tensors, verdicts, language=language, notes=notes)

    def timed(self, progress: Progress | None = None) -> Speeds:
        """Time both models as they read the beginning of the text and continue it."""
        with (progress or SilentProgress()).stage("Timing"):
            context = context_length(self.original.model.config)
            prompt = self.text.windows.reshape(1, -1)[:, : _prompt_length(context)]
            result = _speed(
                lambda new: self.session.generate(prompt, max_new_tokens=new), prompt, self.threads
            )
            original = _speed(
                lambda new: self.original.decode(prompt, max_new_tokens=new), prompt, self.threads
            )
        return Speeds(original, result)


def figures_to_judge(language: LanguageFigures, tensors: TensorFigures) -> dict[str, float]:
    """Return the figures of a decoder by the names of their thresholds."""
    return {
        "perplexity_ratio": language.perplexity_ratio,
        "kl_divergence": language.kl_divergence,
        "top1_agreement": language.top1_agreement,
        "logits_cosine": tensors.of(LOGITS).cosine,
    }


def _prompt_length(context: int) -> int:
    return max(1, min(_PREFILL_TOKENS, context - _DECODE_TOKENS - 1))


def _speed(generate: Callable[[int], Iterator[int]], prompt: Tokens, threads: int | None) -> Speed:
    prefill, decode = [], []
    for _ in range(_REPETITIONS):
        begun = time.perf_counter()
        tokens = generate(_DECODE_TOKENS + 1)
        next(tokens)
        first = time.perf_counter()
        decoded = sum(1 for _ in islice(tokens, _DECODE_TOKENS))
        decode.append(decoded / (time.perf_counter() - first))
        prefill.append(prompt.shape[1] / (first - begun))
    return Speed(float(np.median(prefill)), float(np.median(decode)), threads)
