"""Load a written model beside its original, to be measured: a decoder or an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from castline.compiler.check.decoder_pair import DecoderPair
from castline.compiler.check.encoder_pair import EncoderPair
from castline.compiler.check.evaluation_text import HeldOutPassages, HeldOutText
from castline.compiler.check.measured import Measured, Speeds
from castline.compiler.check.original import OriginalModel
from castline.compiler.check.original_encoder import OriginalEncoder
from castline.compiler.recipes.thresholds import Thresholds
from castline.compiler.targets.encoder_session import EncoderSession
from castline.compiler.targets.session import DecoderSession
from castline.exporters.checkpoint import Checkpoint
from castline.progress import Progress, SilentProgress


class Pair(Protocol):
    """A result and its original, loaded, with the text to judge them by."""

    @property
    def original(self) -> OriginalModel | OriginalEncoder: ...

    def measure(self, thresholds: Thresholds, progress: Progress | None = None) -> Measured:
        """Run both models on the same tokens, and judge the figures."""
        ...

    def timed(self, progress: Progress | None = None) -> Speeds:
        """Time both models on the beginning of the text."""
        ...


@contextmanager
def opened_pair(
    checkpoint: Checkpoint,
    folder: Path,
    text: HeldOutText | HeldOutPassages,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Pair]:
    """Load the model in `folder` and its original; `text` is for the checkpoint's kind of model.

    `threads` holds for both until the pair is left; torch then has the threads it had before.
    """
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with (progress or SilentProgress()).stage("Loading the original and the result"):
            pair = _loaded(checkpoint, folder, text, threads)
        yield pair
    finally:
        torch.set_num_threads(before)


def _loaded(
    checkpoint: Checkpoint,
    folder: Path,
    text: HeldOutText | HeldOutPassages,
    threads: int | None,
) -> Pair:
    if isinstance(text, HeldOutText):
        decoder = DecoderSession.open(folder, threads=threads)
        return DecoderPair(OriginalModel.load(checkpoint), decoder, text, threads)
    encoder = EncoderSession.open(folder, threads=threads)
    return EncoderPair(OriginalEncoder.load(checkpoint), encoder, text, threads)
