from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from castline.exporters.families.llama import LLAMA

TOLERANCE = 1e-4  # relative, of float32 against float32; the samples measure 3e-7 to 2e-6


@pytest.mark.parametrize("padding", [0, 5])
def test_equals_hugging_face_in_prefill_and_decode(
    each_sample: Any, padding: int, session: Any, differences: Any, tmp_path: Path
) -> None:
    runtime = session(each_sample.written(tmp_path))
    found = differences(each_sample.model, lambda f: runtime.run(None, f), padding=padding)
    assert max(found.values()) < TOLERANCE, found


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3"])
def test_the_window_matters_to_these_texts(
    name: str, sample: Callable[[str], Any], session: Any, differences: Any, tmp_path: Path
) -> None:
    """Show that the test above could not pass without the window."""
    windowed = sample(name)
    config = copy.deepcopy(windowed.config)
    config.sliding_window = None
    config.layer_types = ["full_attention"] * config.num_hidden_layers
    boundless = AutoModelForCausalLM.from_config(config).eval()
    boundless.load_state_dict(windowed.model.state_dict())
    runtime = session(windowed.written(tmp_path))
    found = differences(boundless, lambda f: runtime.run(None, f))
    assert min(found["prefill"], found["decode"]) > 100 * TOLERANCE


def test_a_text_fed_in_parts_ends_like_the_whole(
    sample: Callable[[str], Any], session: Any, tmp_path: Path
) -> None:
    runtime = session(sample("qwen3").written(tmp_path))
    ids = np.random.default_rng(0).integers(0, 131, (1, 12))
    positions = np.arange(12)[None]
    inputs = [i.name for i in runtime.get_inputs() if i.name.startswith("past")]

    def run(part: slice, past: list[Any]) -> list[Any]:
        tokens = {
            "input_ids": ids[:, part],
            "attention_mask": np.ones((1, part.stop), np.int64),
            "position_ids": positions[:, part],
        }
        return list(runtime.run(None, tokens | dict(zip(inputs, past, strict=True))))

    empty = [np.zeros((1, 2, 0, 24), np.float32)] * len(inputs)
    whole = run(slice(0, 12), empty)[0]
    parts = run(slice(7, 12), run(slice(0, 7), empty)[1:])[0]
    np.testing.assert_allclose(parts, whole[:, 7:], rtol=0, atol=TOLERANCE * np.abs(whole).max())


def test_transformers_knows_its_model_types() -> None:
    for model_type in LLAMA.model_types:
        assert CONFIG_MAPPING[model_type].model_type == model_type
