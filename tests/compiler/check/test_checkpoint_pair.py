"""A written checkpoint is measured beside its original, both in torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.check.checkpoint_pair import opened_checkpoints
from castline.compiler.check.evaluation_text import (
    HeldOutPassages,
    HeldOutText,
    held_out_passages,
    held_out_windows,
)
from castline.compiler.recipes.thresholds import Thresholds
from castline.errors import CheckpointError


@pytest.fixture
def text(tiny: Callable[[str], Any], evaluation_text: str) -> HeldOutText:
    """Two short windows; the whole ones would take longer."""
    whole = held_out_windows(tiny("llama").checkpoint, evaluation_text)
    return HeldOutText(whole.windows[:2, :64], whole.sha256, whole.source)


def test_a_copy_is_its_original(
    tiny: Callable[[str], Any], source: str, text: HeldOutText, tmp_path: Path
) -> None:
    copy = shutil.copytree(source, tmp_path / "copy")
    with opened_checkpoints(tiny("llama").checkpoint, copy, text, threads=1) as pair:
        found = pair.measure(Thresholds(kl_divergence=0.0, top1_agreement=1.0))
    assert found.language is not None
    assert found.language.tokens == 2 * 63
    assert [verdict.passed for verdict in found.verdicts] == [True, True]
    assert found.tensors.worst_relative_error.relative_error == 0


def test_a_weight_that_changed_is_seen(
    tiny: Callable[[str], Any],
    source: str,
    copy_with: Callable[..., str],
    text: HeldOutText,
    tmp_path: Path,
) -> None:
    def negate(array: np.ndarray) -> None:
        array *= -1

    changed = copy_with(source, tmp_path / "copy", "model.layers.0.mlp.up_proj.weight", negate)
    with opened_checkpoints(tiny("llama").checkpoint, Path(changed), text) as pair:
        found = pair.measure(Thresholds(kl_divergence=1e-3))
    assert [verdict.passed for verdict in found.verdicts] == [False]


def test_an_encoder_is_judged_by_its_vectors(encoder: Any, sentences: str, tmp_path: Path) -> None:
    whole = held_out_passages(encoder.checkpoint, sentences)
    text = HeldOutPassages(whole.passages[:8], whole.padding, whole.sha256, whole.source)
    copy = shutil.copytree(str(encoder.checkpoint.source), tmp_path / "copy")
    with opened_checkpoints(encoder.checkpoint, copy, text, threads=1) as pair:
        found = pair.measure(Thresholds(hidden_cosine=0.999))
    assert found.encoding is not None
    assert found.encoding.hidden_cosine == pytest.approx(1)
    assert [verdict.passed for verdict in found.verdicts] == [True]


def test_the_threads_are_given_back_and_a_broken_folder_is_named(
    tiny: Callable[[str], Any], text: HeldOutText, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    with (
        pytest.raises(CheckpointError, match=r"config\.json"),
        opened_checkpoints(tiny("llama").checkpoint, tmp_path, text, threads=before + 1),
    ):
        pass
    assert torch.get_num_threads() == before
