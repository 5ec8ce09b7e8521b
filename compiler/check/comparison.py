"""Measure a written model beside its original: tensors, language, speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from castline.compiler.calibration.text import load_text, text_sha256, token_windows
from castline.compiler.check.gate import Verdict, judge
from castline.compiler.check.language import LanguageFigures, compare_language
from castline.compiler.check.original import OriginalModel
from castline.compiler.check.tensors import TensorFigures, compare_tensors
from castline.compiler.recipes.thresholds import Thresholds
from castline.compiler.targets.session import DecoderSession
from castline.exporters.checkpoint import Checkpoint
from castline.progress import Progress, SilentProgress

Tokens: TypeAlias = NDArray[np.int64]

_WINDOWS, _WINDOW_LENGTH = 8, 512  # tokens of held-out text; a few seconds for a small model
_TENSOR_TOKENS, _TENSOR_PADDING = 16, 5  # a batch of two rows, the first padded on its left
_PREFILL_TOKENS, _DECODE_TOKENS, _REPETITIONS = 128, 32, 3


@dataclass(frozen=True)
class HeldOutText:
    """Text that no search has seen, as tokens."""

    windows: Tokens
    """[count, length]."""
    sha256: str
    source: str


@dataclass(frozen=True)
class Speed:
    """Tokens per second at batch 1, the median of several runs."""

    prefill: float
    decode: float
    threads: int | None
    """Threads of the runtime; None leaves it the choice."""


@dataclass(frozen=True)
class Speeds:
    """How fast the original and the result are in the same process, with the same threads."""

    original: Speed
    result: Speed


@dataclass(frozen=True)
class Measured:
    """A result beside its original."""

    language: LanguageFigures
    tensors: TensorFigures
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Pair:
    """A result and its original, the checkpoint in torch and float32, ready to run."""

    original: OriginalModel
    session: DecoderSession
    threads: int | None
    """What both run with; None leaves each the choice."""


def held_out_text(checkpoint: Checkpoint, source: str | None) -> HeldOutText:
    """Return the windows to judge by, of `source` or of the shipped text.

    Raises CheckpointError without a tokenizer, RecipeError for a text that is missing or too short.
    """
    text = load_text(source, "evaluation")
    length = min(_WINDOW_LENGTH, checkpoint.config.max_position_embeddings)
    tokenizer = checkpoint.tokenizer()
    fitting = len(tokenizer(text, verbose=False)["input_ids"]) // length
    count = max(1, min(_WINDOWS, fitting))
    windows = token_windows(tokenizer, text, length=length, count=count)
    return HeldOutText(windows, text_sha256(text), source or "shipped")


@contextmanager
def opened_pair(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Pair]:
    """Load the model in `folder` and its original.

    `threads` holds for both until the pair is left; torch then has the threads it had before.
    """
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with (progress or SilentProgress()).stage("Loading the original and the result"):
            original = OriginalModel.load(checkpoint)
            session = DecoderSession.open(folder, threads=threads)
        yield Pair(original, session, threads)
    finally:
        torch.set_num_threads(before)


def measure(
    pair: Pair, text: HeldOutText, thresholds: Thresholds, progress: Progress | None = None
) -> Measured:
    """Run both models on the same tokens, and judge the figures."""
    progress = progress or SilentProgress()
    with progress.stage("Comparing tensors"):
        rows = text.windows[:2, : min(_TENSOR_TOKENS, text.windows.shape[1])]
        # A cache that is appended to in place counts positions by place, so padded rows of it do
        # not hold what the original's hold, though their logits agree.
        padding = 0 if pair.session.shared_cache else _TENSOR_PADDING
        tensors = compare_tensors(pair.original, pair.session.session, rows, padding=padding)
    language = compare_language(pair.original, pair.session, text.windows, progress)
    return Measured(language, tensors, judge(thresholds, language, tensors))


def timed(pair: Pair, text: HeldOutText, progress: Progress | None = None) -> Speeds:
    """Time both models as they read the beginning of `text` and continue it."""
    with (progress or SilentProgress()).stage("Timing"):
        context = pair.original.model.config.max_position_embeddings
        prompt = text.windows.reshape(1, -1)[:, : _prompt_length(context)]
        result = _speed(
            lambda new: pair.session.generate(prompt, max_new_tokens=new), prompt, pair.threads
        )
        original = _speed(
            lambda new: pair.original.decode(prompt, max_new_tokens=new), prompt, pair.threads
        )
    return Speeds(original, result)


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
