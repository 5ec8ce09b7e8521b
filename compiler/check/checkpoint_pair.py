"""Compare a written Hugging Face folder with its original, both run by torch in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from castline.compiler.check import decoder_pair, encoder_pair
from castline.compiler.check.encoding import compare_encodings
from castline.compiler.check.evaluation_text import HeldOutPassages, HeldOutText
from castline.compiler.check.gate import judge, nothing_judged
from castline.compiler.check.language import LanguageModel, Logits, Tokens, compare_language
from castline.compiler.check.measured import Measured
from castline.compiler.check.original import OriginalModel
from castline.compiler.check.original_encoder import OriginalEncoder
from castline.compiler.check.tensors import TensorFigures, tensor_figure
from castline.compiler.recipes.thresholds import Thresholds
from castline.errors import OutputError
from castline.exporters.checkpoint import Checkpoint, open_checkpoint
from castline.exporters.interface import interface_of
from castline.exporters.names import LAST_HIDDEN_STATE, LOGITS
from castline.progress import Progress, SilentProgress

_TENSOR_ROWS, _TENSOR_TOKENS = 2, 16


@dataclass(frozen=True)
class DecoderCheckpoints:
    """A decoder as it was and as it was written; or another two that give logits alone."""

    original: LanguageModel
    written: LanguageModel
    text: HeldOutText

    def measure(self, thresholds: Thresholds, progress: Progress | None = None) -> Measured:
        """Run both models on the same tokens, and judge the figures."""
        windows = self.text.windows
        rows = windows[:_TENSOR_ROWS, :_TENSOR_TOKENS]
        one, other = (_row_by_row(model, rows) for model in (self.original, self.written))
        if one.shape != other.shape:
            raise OutputError(
                f"The result predicts {other.shape[-1]} tokens and the original {one.shape[-1]}: "
                "they are not the same model, and cannot be compared."
            )
        tensors = TensorFigures((tensor_figure(LOGITS, one, other),))
        language = compare_language(self.original, self.written, windows, progress)
        figures = decoder_pair.figures_to_judge(language, tensors)
        verdicts = judge(thresholds, figures)
        notes = nothing_judged(verdicts, figures)
        return Measured(tensors, verdicts, language=language, notes=notes)


@dataclass(frozen=True)
class EncoderCheckpoints:
    """An encoder as it was and as it was written."""

    original: OriginalEncoder
    written: OriginalEncoder
    text: HeldOutPassages

    def measure(self, thresholds: Thresholds, progress: Progress | None = None) -> Measured:
        """Run both models on the same tokens, and judge the figures."""
        most = max(passage.size for passage in self.text.passages)
        row = np.concatenate(self.text.passages)[None, : min(_TENSOR_TOKENS, most)]
        one, other = self.original.hidden(row), self.written.hidden(row)
        if one.shape != other.shape:
            raise OutputError(
                f"The result gives vectors of {other.shape[-1]} and the original of "
                f"{one.shape[-1]}: they are not the same model, and cannot be compared."
            )
        tensors = TensorFigures((tensor_figure(LAST_HIDDEN_STATE, one, other),))
        text = self.text
        encoding = compare_encodings(
            self.original, self.written, text.passages, text.padding, progress
        )
        figures = encoder_pair.figures_to_judge(encoding)
        verdicts = judge(thresholds, figures)
        notes = nothing_judged(verdicts, figures)
        return Measured(tensors, verdicts, encoding=encoding, notes=notes)


@contextmanager
def opened_checkpoints(
    checkpoint: Checkpoint,
    folder: str | Path,
    text: HeldOutText | HeldOutPassages,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[DecoderCheckpoints | EncoderCheckpoints]:
    """Load the checkpoint written into `folder`, as it reads back, and its original.

    `threads` holds until both are left; torch then has the threads it had before. Raises
    CheckpointError where the folder is none that can be imported.
    """
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with (progress or SilentProgress()).stage("Loading the original and the result"):
            written = open_checkpoint(folder)
            _require_kind(written, text)
            pair = _loaded(checkpoint, written, text)
        yield pair
    finally:
        torch.set_num_threads(before)


def _require_kind(written: Checkpoint, text: HeldOutText | HeldOutPassages) -> None:
    """Raise OutputError for an encoder that is held against a decoder, or the other way round."""
    kinds = {True: "a decoder, which predicts tokens", False: "an encoder, which gives vectors"}
    writes = interface_of(written.config).cached
    if writes != isinstance(text, HeldOutText):
        raise OutputError(
            f"{written.source} is {kinds[writes]}, and the original is {kinds[not writes]}: they "
            "cannot be compared."
        )


def _row_by_row(model: LanguageModel, rows: Tokens) -> Logits:
    return np.concatenate([model.logits(row[None]) for row in rows])


def _loaded(
    original: Checkpoint, written: Checkpoint, text: HeldOutText | HeldOutPassages
) -> DecoderCheckpoints | EncoderCheckpoints:
    if isinstance(text, HeldOutText):
        return DecoderCheckpoints(OriginalModel.load(original), OriginalModel.load(written), text)
    return EncoderCheckpoints(OriginalEncoder.load(original), OriginalEncoder.load(written), text)
