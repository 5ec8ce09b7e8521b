"""What a model reads at once is written into its file and read back from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from castline.compiler.targets.context import (
    FLOAT_ACTIVATIONS,
    note_context,
    note_float_activations,
    noted_context,
)
from castline.compiler.targets.write import write_model


def test_the_length_is_in_the_file(encoder: Any, tmp_path: Path) -> None:
    model = encoder.model()
    note_context(model, 64)
    session = onnxruntime.InferenceSession(write_model(model, tmp_path))
    assert noted_context(session) == 64


def test_a_model_of_other_origin_says_nothing(encoder: Any) -> None:
    assert noted_context(onnxruntime.InferenceSession(encoder.graph)) is None


def test_float_activations_are_noted_in_the_file(encoder: Any, tmp_path: Path) -> None:
    model = encoder.model()
    note_float_activations(model)
    assert FLOAT_ACTIVATIONS.encode() in write_model(model, tmp_path).read_bytes()
