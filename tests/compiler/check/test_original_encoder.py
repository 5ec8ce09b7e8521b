"""The original encoder is Hugging Face's own, without what stands on top of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from castline.compiler.check.original_encoder import OriginalEncoder

TOKENS = np.array([[2, 9, 41, 30, 3], [2, 50, 3, 0, 0]], dtype=np.int64)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=np.int64)


@pytest.fixture(scope="module")
def original(encoder: Any) -> OriginalEncoder:
    return OriginalEncoder.load(encoder.checkpoint)


def test_gives_the_vectors_that_the_whole_model_has_inside(
    original: OriginalEncoder, encoder: Any
) -> None:
    whole = AutoModelForMaskedLM.from_pretrained(encoder.checkpoint.source).eval()
    with torch.inference_mode():
        output = whole.bert(
            input_ids=torch.from_numpy(TOKENS), attention_mask=torch.from_numpy(MASK)
        )
    hidden = original.hidden(TOKENS, MASK)
    np.testing.assert_allclose(hidden, output.last_hidden_state.numpy(), atol=1e-6)
    assert hidden.dtype == np.float32


def test_no_mask_means_no_padding(original: OriginalEncoder) -> None:
    masked = original.hidden(TOKENS, np.ones_like(TOKENS))
    np.testing.assert_array_equal(original.hidden(TOKENS), masked)


def test_runs_on_the_inputs_that_our_graphs_have(original: OriginalEncoder) -> None:
    feed = {"input_ids": TOKENS, "attention_mask": MASK, "token_type_ids": np.ones_like(TOKENS)}
    outputs = original.run(feed)
    assert list(outputs) == ["last_hidden_state"]
    assert np.abs(outputs["last_hidden_state"] - original.hidden(TOKENS, MASK)).max() > 0.1
    assert original.takes_segments
