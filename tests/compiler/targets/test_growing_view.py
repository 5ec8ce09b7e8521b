"""A fixed cache is seen as one that grows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.fixed_cache import FixedCache
from castline.compiler.targets.growing_view import GrowingView, growing_view


@pytest.fixture
def sessions(
    tiny: Callable[[str], Any], written: Callable[[ir.Model], Path]
) -> tuple[onnxruntime.InferenceSession, ...]:
    model = tiny("llama").model()
    FixedCache()(model)
    paths = (tiny("llama").graph, written(model))
    return tuple(onnxruntime.InferenceSession(p, providers=["CPUExecutionProvider"]) for p in paths)


def test_it_has_the_inputs_of_a_growing_decoder(
    sessions: tuple[onnxruntime.InferenceSession, ...],
) -> None:
    growing, fixed = sessions
    found = {node.name: (node.type, len(node.shape)) for node in GrowingView(fixed).get_inputs()}
    assert found == {node.name: (node.type, len(node.shape)) for node in growing.get_inputs()}
    past = next(n for n in GrowingView(fixed).get_inputs() if n.name.startswith("past"))
    assert past.shape == ["batch_size", 2, "past_sequence_length", 32]


def test_it_gives_what_the_growing_decoder_gives(
    sessions: tuple[onnxruntime.InferenceSession, ...],
) -> None:
    growing, fixed = sessions
    view = growing_view(fixed)
    ids = np.random.default_rng(0).integers(0, 150, (2, 7))
    mask = np.ones((2, 7), np.int64)
    mask[0, :2] = 0
    pasts = [node.name for node in growing.get_inputs() if node.name.startswith("past")]
    caches = {name: np.zeros((2, 2, 0, 32), np.float32) for name in pasts}
    for new in (slice(0, 5), slice(5, 7)):
        feed = {
            "input_ids": ids[:, new],
            "attention_mask": mask[:, : new.stop],
            "position_ids": np.maximum(mask.cumsum(1) - 1, 0)[:, new],
            **caches,
        }
        expected, found = growing.run(None, feed), view.run(None, feed)
        for a, b in zip(found, expected, strict=True):
            kept = (a.swapaxes(1, 2), b.swapaxes(1, 2)) if a.ndim == 4 else (a, b)
            tokens = mask[:, : new.stop][:, -kept[0].shape[1] :].astype(bool)
            np.testing.assert_allclose(kept[0][tokens], kept[1][tokens], rtol=1e-4, atol=1e-4)
        caches = dict(zip(pasts, expected[1:], strict=True))


def test_a_growing_decoder_is_itself(sessions: tuple[onnxruntime.InferenceSession, ...]) -> None:
    assert growing_view(sessions[0]) is sessions[0]
