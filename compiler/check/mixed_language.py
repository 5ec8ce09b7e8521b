"""Judge mixes of an original and a result by the text that the gate reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from castline.compiler.check.decoder_pair import figures_to_judge
from castline.compiler.check.evaluation_text import HeldOutText, first_tokens
from castline.compiler.check.gate import judge
from castline.compiler.check.kept_pieces import Kept, Tried
from castline.compiler.check.language import (
    LanguageFigures,
    Logits,
    Tokens,
    exponential,
    window_sums,
)
from castline.compiler.check.mixed_model import Mix, MixedModel
from castline.compiler.check.original_runner import Feed
from castline.compiler.check.tensors import TensorFigure, TensorFigures, tensor_figure
from castline.compiler.recipes.thresholds import Thresholds
from castline.exporters.names import ATTENTION_MASK, INPUT_IDS, LOGITS


def feeds_of(text: HeldOutText) -> tuple[Feed, ...]:
    """Return what mixes read: two short rows for the logits' cosine, then every window."""
    return (first_tokens(text), *(_feed(window[None]) for window in text.windows))


class MixedLanguage:
    """Mixes of one model, with the windows [count, length] that they are judged on."""

    def __init__(self, mixed: MixedModel, windows: Tokens, thresholds: Thresholds) -> None:
        """Take a model that reads the `feeds_of` the same windows."""
        self._mixed = mixed
        self._windows = windows
        self._thresholds = thresholds

    def tried(self, kept: Kept) -> Tried:
        """Return how the mix does whose pieces `kept` are the original's."""
        language, cosine = self.figures(tuple(place in kept for place in range(self._mixed.count)))
        tensors = TensorFigures((cosine,))
        verdicts = judge(self._thresholds, figures_to_judge(language, tensors))
        return Tried(kept, language, cosine.cosine, verdicts)

    def figures(self, mix: Mix) -> tuple[LanguageFigures, TensorFigure]:
        """Return the figures of a mix beside those of the original alone."""
        sums = np.zeros(4)
        original = self._mixed.outputs((True,) * self._mixed.count)
        found = self._mixed.outputs(mix)
        first = tensor_figure(LOGITS, next(original), next(found))
        for window in self._windows:
            sums += window_sums(_float32(next(original)), _float32(next(found)), window)
        count, length = self._windows.shape
        tokens = count * (length - 1)
        nll_original, nll, divergence, agreement = (sums / tokens).tolist()
        figures = LanguageFigures(
            exponential(nll_original), exponential(nll), divergence, agreement, tokens
        )
        return figures, first


def _float32(logits: NDArray[np.generic]) -> Logits:
    return np.asarray(logits[0], dtype=np.float32)


def _feed(tokens: Tokens) -> Feed:
    return {INPUT_IDS: tokens, ATTENTION_MASK: np.ones_like(tokens)}
