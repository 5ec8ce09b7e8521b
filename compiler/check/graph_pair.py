"""Compare two graphs, both on ONNX Runtime, the first of them as the original."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.check import decoder_pair, encoder_pair
from castline.compiler.check.encoding import compare_encodings
from castline.compiler.check.evaluation_text import (
    HeldOutPassages,
    HeldOutText,
    first_tokens,
)
from castline.compiler.check.gate import judge, nothing_judged
from castline.compiler.check.graph_run import GraphRun
from castline.compiler.check.language import compare_language
from castline.compiler.check.measured import Measured
from castline.compiler.check.model_kind import NamedModel
from castline.compiler.check.tensors import TensorFigures, compare_run, compare_tensors
from castline.compiler.recipes.thresholds import Thresholds
from castline.compiler.targets.encoder_session import EncoderSession
from castline.compiler.targets.session import DecoderSession
from castline.errors import OutputError
from castline.exporters.names import INPUT_IDS, LAST_HIDDEN_STATE, LOGITS, PAST_PREFIX, SLOTS
from castline.progress import Progress, SilentProgress

if TYPE_CHECKING:
    import onnxruntime

Tokens: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class DecoderGraphs:
    """A decoder's graph, and another to hold against it."""

    original: DecoderSession
    result: DecoderSession
    text: HeldOutText

    def measure(self, thresholds: Thresholds, progress: Progress | None = None) -> Measured:
        """Run both graphs on the same tokens, and judge the figures."""
        progress = progress or SilentProgress()
        windows = self.text.windows
        with progress.stage("Comparing tensors"):
            original, result = GraphRun(self.original.session), GraphRun(self.result.session)
            rows = first_tokens(self.text)[INPUT_IDS]
            tensors = compare_tensors(original, result.session, rows)
        language = compare_language(self.original, self.result, windows, progress)
        figures = decoder_pair.figures_to_judge(language, tensors)
        verdicts = judge(thresholds, figures)
        notes = nothing_judged(verdicts, figures)
        return Measured(tensors, verdicts, language=language, notes=notes)


@dataclass(frozen=True)
class EncoderGraphs:
    """An encoder's graph, and another to hold against it."""

    original: EncoderSession
    result: EncoderSession
    text: HeldOutPassages

    def measure(self, thresholds: Thresholds, progress: Progress | None = None) -> Measured:
        """Run both graphs on the same tokens, and judge the figures."""
        progress = progress or SilentProgress()
        text = self.text
        with progress.stage("Comparing tensors"):
            feed = first_tokens(text)
            run = GraphRun(self.original.session)
            filled = GraphRun(self.result.session).filled(feed)
            compared, *_ = compare_run(run, self.result.session, filled)
        encoding = compare_encodings(
            self.original, self.result, text.passages, text.padding, progress
        )
        figures = encoder_pair.figures_to_judge(encoding)
        verdicts = judge(thresholds, figures)
        notes = nothing_judged(verdicts, figures)
        return Measured(TensorFigures(tuple(compared)), verdicts, encoding=encoding, notes=notes)


@contextmanager
def opened_graphs(
    original: NamedModel,
    result: NamedModel,
    text: HeldOutText | HeldOutPassages,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[DecoderGraphs | EncoderGraphs]:
    """Load two graphs that read `text`, which is for the original's kind of model.

    Raises TargetError where one of them is damaged or is a model of the other kind, OutputError
    where they have other vocabularies or widths.
    """
    with (progress or SilentProgress()).stage("Loading both graphs"):
        pair = _loaded(_graph(original), _graph(result), text, threads)
    yield pair


def _loaded(
    original: Path, result: Path, text: HeldOutText | HeldOutPassages, threads: int | None
) -> DecoderGraphs | EncoderGraphs:
    if isinstance(text, HeldOutText):
        decoder = DecoderSession.open(original, threads=threads)
        other = DecoderSession.open(result, threads=threads)
        _require_alike(original, decoder.session, result, other.session, LOGITS)
        return DecoderGraphs(decoder, other, text)
    encoder = EncoderSession.open(original, threads=threads)
    another = EncoderSession.open(result, threads=threads)
    _require_alike(original, encoder.session, result, another.session, LAST_HIDDEN_STATE)
    return EncoderGraphs(encoder, another, text)


def _graph(model: NamedModel) -> Path:
    assert model.graph is not None, "the caller has made sure that both are graphs"
    return model.graph


def _require_alike(
    original: Path,
    one: onnxruntime.InferenceSession,
    result: Path,
    other: onnxruntime.InferenceSession,
    output: str,
) -> None:
    """Raise OutputError for another depth, or another width, as another vocabulary makes it."""
    layers = [
        sum(node.name.startswith(PAST_PREFIX) for node in session.get_inputs()) // len(SLOTS)
        for session in (one, other)
    ]
    if layers[0] != layers[1]:
        raise OutputError(
            f"{result} has the caches of {layers[1]} layers, and {original} of {layers[0]}: they "
            "are not the same model, and cannot be compared."
        )
    widths = [
        next(node.shape[-1] for node in session.get_outputs() if node.name == output)
        for session in (one, other)
    ]
    known = all(isinstance(width, int) for width in widths)
    if known and widths[0] != widths[1]:
        raise OutputError(
            f"{result} gives {output} of {widths[1]}, and {original} of {widths[0]}: they are not "
            "the same model, and cannot be compared."
        )
