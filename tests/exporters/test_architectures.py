from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from castline.exporters.architectures import PROVEN

TOLERANCE = 1e-4  # relative, of float32 against float32; they measure 3e-7 to 2e-5


def test_equals_hugging_face(
    architecture: Any, session: Any, worst_difference: Any, record_property: Any, tmp_path: Path
) -> None:
    path = architecture.written(tmp_path)
    onnx.checker.check_model(path, full_check=True)
    runtime = session(path)
    worst = worst_difference(architecture, lambda feed: runtime.run(None, feed))
    record_property("architecture", architecture.name)
    record_property("worst relative error", worst)
    assert worst < TOLERANCE


def test_every_architecture_is_in_the_sweep(architectures: Any) -> None:
    assert {fields["model_type"] for fields in architectures.values()} == PROVEN


def test_transformers_knows_every_architecture() -> None:
    assert set(CONFIG_MAPPING) >= PROVEN


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3"])
def test_the_window_matters_to_these_texts(
    name: str, sample: Callable[[str], Any], session: Any, differences: Any, tmp_path: Path
) -> None:
    """Show that the sweep could not pass without the window."""
    windowed = sample(name)
    config = copy.deepcopy(windowed.config)
    config.sliding_window = 1000
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"] * config.num_hidden_layers
    boundless = AutoModelForCausalLM.from_config(config).eval()
    boundless.load_state_dict(windowed.model.state_dict())
    runtime = session(windowed.written(tmp_path))
    found = differences(boundless, lambda f: runtime.run(None, f))
    assert min(found["prefill"], found["decode"]) > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "mixtral", "falcon, ALiBi"])
def test_a_text_fed_in_parts_ends_like_the_whole(
    name: str, sample: Callable[[str], Any], session: Any, tmp_path: Path
) -> None:
    runtime = session(sample(name).written(tmp_path))
    ids = np.random.default_rng(0).integers(3, 131, (1, 12))
    positions = np.arange(12)[None]
    inputs = [i for i in runtime.get_inputs() if i.name.startswith("past")]

    def run(part: slice, past: list[Any]) -> list[Any]:
        tokens = {
            "input_ids": ids[:, part],
            "attention_mask": np.ones((1, part.stop), np.int64),
            "position_ids": positions[:, part],
        }
        caches = {i.name: array for i, array in zip(inputs, past, strict=True)}
        return list(runtime.run(None, tokens | caches))

    empty = [np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in inputs]
    whole = run(slice(0, 12), empty)[0]
    parts = run(slice(7, 12), run(slice(0, 7), empty)[1:])[0]
    np.testing.assert_allclose(parts, whole[:, 7:], rtol=0, atol=TOLERANCE * np.abs(whole).max())
