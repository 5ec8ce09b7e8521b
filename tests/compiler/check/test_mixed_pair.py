"""A decoder and its original are cut alike, or it is said why they cannot take turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from castline.compiler.check.mixed_pair import mixed_pair
from castline.errors import OutputError
from castline.progress import SilentProgress


def test_pieces_of_a_checkpoint_and_of_its_export_are_the_same(
    sides: Any, source: str, exported: Path, quantized: Path
) -> None:
    logits = []
    for original in (source, exported):
        cuts, mixed = mixed_pair(sides(original, quantized), SilentProgress())
        logits.append(next(mixed.outputs((True, False, True, True))))
    assert len(cuts.titles) == mixed.count == 4
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4)


def test_hidden_states_of_another_model_are_refused(
    sides: Any, source: str, quantized: Path, tmp_path: Path, copy_with: Any
) -> None:
    def turn(array: Any) -> None:
        array[:] = np.roll(array, 1, axis=1)

    other = copy_with(source, tmp_path / "other", "model.embed_tokens.weight", turn)
    with pytest.raises(OutputError, match="read a hidden state that is not the original's"):
        mixed_pair(sides(other, quantized), SilentProgress())
