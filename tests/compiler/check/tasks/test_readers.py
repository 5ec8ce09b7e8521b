"""A context that is read once gives what whole sequences give, in torch and on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from castline.compiler.check.original import OriginalModel
from castline.compiler.check.tasks.readers import OriginalReader, SessionReader
from castline.compiler.targets.session import DecoderSession

CONTEXT = np.array([5, 9, 2, 44, 17, 3, 81, 60, 7], dtype=np.int64)
CONTINUATIONS = [np.array(tokens, dtype=np.int64) for tokens in ([8, 4, 99], [12], [31, 30])]


def whole(model: OriginalModel, continuation: np.ndarray) -> np.ndarray:
    """Return the logits before each token of a continuation, read without a cache."""
    ids = np.concatenate([CONTEXT, continuation])[None]
    return model.logits(ids)[0, CONTEXT.size - 1 : -1]


# Mistral's window of 6 tokens is shorter than the context.
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_torch_reads_a_context_once(tiny: Callable[[str], Any], name: str) -> None:
    model = OriginalModel.load(tiny(name).checkpoint)
    found = OriginalReader(model).continued(CONTEXT, CONTINUATIONS)
    for tokens, logits in zip(CONTINUATIONS, found, strict=True):
        np.testing.assert_allclose(logits, whole(model, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_growing_cache_is_gone_back_to(tiny: Callable[[str], Any], name: str) -> None:
    model = OriginalModel.load(tiny(name).checkpoint)
    session = DecoderSession.open(tiny(name).graph, threads=1)
    found = SessionReader(session).continued(CONTEXT, CONTINUATIONS)
    for tokens, logits in zip(CONTINUATIONS, found, strict=True):
        np.testing.assert_allclose(logits, whole(model, tokens), rtol=1e-4, atol=1e-4)


def test_a_shared_cache_is_gone_back_to(published: tuple[Any, Path]) -> None:
    session = DecoderSession.open(published[1], threads=1)
    assert session.shared_cache
    found = SessionReader(session).continued(CONTEXT, CONTINUATIONS)
    for tokens, logits in zip(CONTINUATIONS, found, strict=True):
        ids = np.concatenate([CONTEXT, tokens])[None]
        expected = session.logits(ids)[0, CONTEXT.size - 1 : -1]
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
