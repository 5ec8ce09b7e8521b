"""Polygraphy sees the original as it sees our graphs: same names, same shapes, a cache between."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from castline.compiler.check.original import OriginalModel
from castline.compiler.check.original_runner import OriginalRunner, decoder_run, empty_past

TOKENS = np.array([[3, 7, 1, 9, 4], [2, 2, 8, 5, 6]], dtype=np.int64)
LAYERS, KV_HEADS, HEAD_SIZE, VOCABULARY = 2, 2, 4, 32


@pytest.fixture(scope="module")
def original() -> OriginalModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=KV_HEADS,
    )
    return OriginalModel(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval())


def run(original: OriginalModel, start: int, stop: int, past: dict) -> dict[str, np.ndarray]:
    new = np.ascontiguousarray(TOKENS[:, start:stop])
    feed = {
        "input_ids": new,
        "attention_mask": np.ones((2, stop), dtype=np.int64),
        "position_ids": np.tile(np.arange(start, stop), (2, 1)),
        **past,
    }
    with OriginalRunner(decoder_run(original), feed) as runner:
        assert set(runner.get_input_metadata(use_numpy_dtypes=False)) == set(feed)
        return runner.infer(feed)


def test_the_empty_past_has_the_shape_of_the_cache(original: OriginalModel) -> None:
    past = empty_past(original, batch=3)
    assert list(past) == [
        f"past_key_values.{layer}.{slot}" for layer in range(LAYERS) for slot in ("key", "value")
    ]
    assert {array.shape for array in past.values()} == {(3, KV_HEADS, 0, HEAD_SIZE)}


def test_the_outputs_are_named_and_shaped_as_those_of_our_graphs(original: OriginalModel) -> None:
    outputs = run(original, 0, 5, empty_past(original, batch=2))
    assert {name: array.shape for name, array in outputs.items()} == {
        "logits": (2, 5, VOCABULARY),
        **{
            f"present.{layer}.{slot}": (2, KV_HEADS, 5, HEAD_SIZE)
            for layer in range(LAYERS)
            for slot in ("key", "value")
        },
    }
    np.testing.assert_allclose(outputs["logits"], original.logits(TOKENS), rtol=1e-5, atol=1e-6)


def test_a_step_continues_from_the_past_it_is_given(original: OriginalModel) -> None:
    prefill = run(original, 0, 4, empty_past(original, batch=2))
    past = {
        name.replace("present", "past_key_values"): array
        for name, array in prefill.items()
        if name != "logits"
    }
    step = run(original, 4, 5, past)
    np.testing.assert_allclose(
        step["logits"][:, 0], original.logits(TOKENS)[:, -1], rtol=1e-4, atol=1e-6
    )
    assert step["present.1.key"].shape == (2, KV_HEADS, 5, HEAD_SIZE)
