"""Compare an encoder with its original: the vectors they give, their speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.check.encoding import EncodingFigures, compare_encodings
from castline.compiler.check.evaluation_text import HeldOutPassages
from castline.compiler.check.gate import judge, nothing_judged
from castline.compiler.check.measured import Measured, Speed, Speeds
from castline.compiler.check.original_encoder import OriginalEncoder
from castline.compiler.check.tensors import TensorFigures, compare_run
from castline.compiler.recipes.thresholds import Thresholds
from castline.compiler.targets.encoder_session import EncoderSession
from castline.exporters.names import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS
from castline.progress import Progress, SilentProgress

Tokens: TypeAlias = NDArray[np.int64]

_TENSOR_TOKENS, _TENSOR_PADDING = 16, 5  # a batch of two rows, the first padded on its right
_TIMED_TOKENS, _REPETITIONS = 128, 9


@dataclass(frozen=True)
class EncoderPair:
    """A result and its original, the checkpoint in torch and float32, ready to run."""

    original: OriginalEncoder
    session: EncoderSession
    text: HeldOutPassages
    threads: int | None
    """What both run with; None leaves each the choice."""

    def measure(self, thresholds: Thresholds, progress: Progress | None = None) -> Measured:
        """Run both models on the same tokens, and judge the figures."""
        progress = progress or SilentProgress()
        with progress.stage("Comparing tensors"):
            tensors = self._tensors()
        encoding = compare_encodings(
            self.original, self.session, self.text.passages, self.text.padding, progress
        )
        figures = figures_to_judge(encoding)
        verdicts = judge(thresholds, figures)
        notes = nothing_judged(verdicts, figures)
        return Measured(tensors, verdicts, encoding=encoding, notes=notes)

    def timed(self, progress: Progress | None = None) -> Speeds:
        """Time both models as they read one row of 128 tokens, or the longest passage."""
        with (progress or SilentProgress()).stage("Timing"):
            row = self._tokens(_TIMED_TOKENS)[None]
            result = _speed(lambda: self.session.hidden(row), row.size, self.threads)
            original = _speed(lambda: self.original.hidden(row), row.size, self.threads)
        return Speeds(original, result)

    def _tensors(self) -> TensorFigures:
        """Compare two rows by Polygraphy; where the model has segments, they have two each."""
        tokens = self._tokens(2 * _TENSOR_TOKENS)
        length = tokens.size // 2
        padding = min(_TENSOR_PADDING, length - 1)
        input_ids = tokens[: 2 * length].reshape(2, length).copy()
        mask = np.ones_like(input_ids)
        input_ids[0, length - padding :], mask[0, length - padding :] = self.text.padding, 0
        feed = {INPUT_IDS: input_ids, ATTENTION_MASK: mask}
        if self.session.takes_segments:
            feed[TOKEN_TYPE_IDS] = np.tile(np.arange(length) * 2 // length, (2, 1))
        compared, *_ = compare_run(self.original.run, self.session.session, feed)
        return TensorFigures(tuple(compared))

    def _tokens(self, count: int) -> Tokens:
        """Return `count` tokens of the text, or as many as its longest passage has."""
        most = max(passage.size for passage in self.text.passages)
        return np.concatenate(self.text.passages)[: min(count, most)]


def figures_to_judge(encoding: EncodingFigures) -> dict[str, float]:
    """Return the figures of an encoder by the names of their thresholds."""
    return {
        "hidden_cosine": encoding.hidden_cosine,
        "embedding_cosine": encoding.embedding_cosine,
        "similarity_correlation": encoding.similarity_correlation,
    }


def _speed(encode: Callable[[], object], tokens: int, threads: int | None) -> Speed:
    encode()  # the first run prepares what the others use
    rates = []
    for _ in range(_REPETITIONS):
        begun = time.perf_counter()
        encode()
        rates.append(tokens / (time.perf_counter() - begun))
    return Speed(float(np.median(rates)), None, threads)
